"""The picture of who holds what shows something, and shows it right."""

import io

import numpy as np
import pytest
import torch

from dai_lab.core import Key
from dai_lab.data import classes, dirichlet, holdings, iid, mnist10k, picture, tensors


def pixels(figure):
    from matplotlib.image import imread

    file = io.BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    return imread(file)


def title(figure):
    return figure.axes[0].get_title(loc="left")


def test_it_renders_to_ink_on_an_opaque_white_page():
    page = pixels(picture(dirichlet(mnist10k(), clients=20, key=Key(0))))
    assert (page[..., 3] == 1).all()
    assert 0.02 < (page[..., :3] < 0.9).any(axis=-1).mean() < 0.5


def test_bars_are_sizes_and_bubble_areas_are_counts():
    dealt = classes(mnist10k(), clients=10, key=Key(0))
    figure = picture(dealt)
    bars = [bar.get_height() for bar in figure.axes[0].patches]
    assert bars == dealt.shards.sizes.tolist()
    bubbles = figure.axes[1].collections[0]
    counts = holdings(dealt)
    assert bubbles.get_offsets().astype(int).tolist() == counts.nonzero().tolist()
    areas = torch.as_tensor(bubbles.get_sizes())
    torch.testing.assert_close(
        areas / areas.max(), counts[counts > 0].double() / counts.max(), atol=0.02, rtol=0
    )


def test_many_clients_are_sampled_and_the_title_says_so():
    many = picture(iid(mnist10k(), clients=1000, key=Key(0)))
    assert len(many.axes[0].patches) == 40
    assert "40 of 1,000 clients" in title(many)
    assert "sample" not in title(picture(iid(mnist10k(), clients=40, key=Key(0))))
    with pytest.raises(ValueError, match="most must be at least 1, got 0"):
        picture(iid(mnist10k(), clients=4, key=Key(0)), most=0)


def test_a_regression_has_bars_only():
    figure = picture(iid(tensors(torch.randn(50, 2), torch.randn(50)), clients=4, key=Key(0)))
    assert len(figure.axes) == 1
    assert np.ptp(pixels(figure)[..., :3]) > 0.5


def test_holdings_count_every_example_once():
    data = mnist10k()
    counts = holdings(dirichlet(data, clients=7, key=Key(1)))
    assert counts.sum(dim=0).tolist() == data.train.targets.bincount().tolist()
