"""Real data sets, where they come from, and how they are dealt to clients."""

from dai_lab.data.biased import biased, planted
from dai_lab.data.cards import describe
from dai_lab.data.downloads import cifar10, cifar100, emnist, fashion_mnist, mnist
from dai_lab.data.feature_skew import features
from dai_lab.data.holdouts import split
from dai_lab.data.images import digits, mnist10k
from dai_lab.data.long_tail import long_tail
from dai_lab.data.own import file, tensors
from dai_lab.data.partitions import classes, dirichlet, iid, quantity, similarity
from dai_lab.data.pictures import holdings, picture
from dai_lab.data.signals import watch_har
from dai_lab.data.sources import natural, sources
from dai_lab.data.tables import adult, compas, credit_default, law_school

__all__ = [
    "adult",
    "biased",
    "cifar10",
    "cifar100",
    "classes",
    "compas",
    "credit_default",
    "describe",
    "digits",
    "dirichlet",
    "emnist",
    "fashion_mnist",
    "features",
    "file",
    "holdings",
    "iid",
    "law_school",
    "long_tail",
    "mnist",
    "mnist10k",
    "natural",
    "picture",
    "planted",
    "quantity",
    "similarity",
    "sources",
    "split",
    "tensors",
    "watch_har",
]
