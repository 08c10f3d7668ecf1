"""A model's lineage: complete, legible, small, and safe whatever a log says."""

import json
import re
import shutil
import sqlite3
import subprocess
import xml.etree.ElementTree as ET
from base64 import b64decode
from functools import cache
from hashlib import sha256
from html.parser import HTMLParser
from io import BytesIO

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.config import load
from dai_lab.experiment import simulate
from dai_lab.ledger import Event, Keyring, Log, leaf_hash, signed, told
from dai_lab.report import Lineage, lineage, report
from dai_lab.report.figures import rendered
from dai_lab.report.grid import LETTER, Column, Row, bundled, clean, placed

EVIL = "<script>hacked=1</script><img src=x onerror='hacked=1'>\"</svg>\u202e$x_{$ {{ 7*7 }}"
KEYS = Keyring(bytes(32))
LAB, SERVER, STRANGER = KEYS.signer("lab"), KEYS.signer("server"), KEYS.signer("stranger")


def digest(*about):
    return sha256(repr(about).encode()).digest()


@cache
def client(number):
    return KEYS.signer("client", number)


def told_by(rounds, *, owners=None, license="CC BY 4.0", anchored=0, weight=None, unused=()):
    """Tell a run in which these clients took part in each round: kind, body, who signs."""
    everyone = sorted({one for some in rounds for one in some}) if owners is None else owners
    start = {
        "run": "r", "nonce": bytes(32), "server": SERVER.public, "config": bytes(32),
        "commit": None, "environment": bytes(32),
    }  # fmt: skip
    identity = leaf_hash(signed("started", start, LAB))
    said = [("started", start, LAB)]
    for one in everyone:
        owner = {"owner": f"client/{one}"}
        data = {**owner, "root": digest("root", one), "size": 10 + one, "license": license}
        may = {**owner, "run": "r", "purpose": "training", "rounds": len(rounds)}
        said += [("dataset", data, client(one)), ("consent_granted", may, client(one))]
    for at, some in enumerate(rounds, start=1):
        for one in some:
            seal = {"commitment": digest(at, one), "weight": weight(one) if weight else 10.0 + one}
            said.append(("update", {"round": at, "client": one, **seal}, client(one)))
        if some and at not in unused:
            owners = "\n".join(f"client/{one}" for one in some).encode()
            used = {"round": at, "owners": sha256(owners).digest(), "count": len(some)}
            said.append(("consent_used", used, SERVER))
            said.append(("aggregate", {"round": at, "digest": digest("sum", at)}, SERVER))
        model = {"cid": f"bafkrei{digest(at).hex()[:52]}", "digest": digest(at), "snapshot": None}
        said.append(("model", {"round": at, **model}, SERVER))
        said.append(("evaluation", {"round": at, "record": digest("record", at)}, SERVER))
        if at <= anchored:
            where = {"chain": 5, "contract": "0xc0", "run": identity, "block": at}
            where |= {"round": at, "size": len(said), "transaction": f"0x{at:064x}"}
            said.append(("anchored", where, LAB))
    return said


def paid(at, to="0xbeef", amount=7):
    return "payout", {"round": at, "to": to, "amount": amount, "root": digest("paid")}


def logged(folder, said):
    """Write a log as a run does."""
    folder.mkdir(parents=True, exist_ok=True)
    log = Log(folder / "ledger.sqlite")
    log.append([signed(*one) for one in said])
    log.close(whole=True)
    return folder


def drawn(said, payouts=()):
    """Skip the signatures, for what does not turn on them."""
    events = [Event(kind, by.public, body) for kind, body, by in said]
    history = told(events, leaf_hash(signed(*said[0])))
    assert history.doubts == []
    return Lineage(history, tuple(Event(*one[:1], SERVER.public, one[1]) for one in payouts), ())


def data(html):
    """Read what the picture's script reads."""
    return json.loads(re.search(r'application/json">(.*?)</script>', html, re.DOTALL)[1])


class Page(HTMLParser):
    """Every tag, what is open, and the text outside scripts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if not {"script", "style"} & set(self.open):
            self.text += text


parts = st.lists(st.sets(st.integers(0, 6)).map(sorted), min_size=1, max_size=5).filter(any)
names = st.text(max_size=30) | st.just("W" * 40)
rows = st.lists(st.builds(Row, names, st.integers(0, 2**62)), min_size=1, max_size=60)


@st.composite
def pictures(draw):
    owners = draw(rows)
    took = st.frozensets(st.integers(0, len(owners) - 1))
    flags = st.tuples(
        took, st.text(max_size=60), st.booleans(), st.booleans(), st.integers(0, 9999)
    )
    start = draw(st.sampled_from([1, 95, 99_990]))
    rounds = [Column(start + at, *one) for at, one in enumerate(draw(st.lists(flags, min_size=1)))]
    return owners, rounds


@given(pictures())
def test_nothing_overlaps_and_all_text_fits_its_mark_and_the_picture(both):
    grid = placed(*both)
    boxes = [
        (one.x - one.wide / 2, one.y - one.high / 2, one.x + one.wide / 2, one.y + one.high / 2)
        for one in grid.nodes
    ]
    boxes += [(x, y - 11, x + 8 * len(word), y + 3) for x, y, word in grid.heads]
    for at, (left, top, right, bottom) in enumerate(boxes):
        assert 0 <= left < right <= grid.wide and 0 <= top < bottom <= grid.high
        for far_left, above, far_right, below in boxes[:at]:
            assert right <= far_left or far_right <= left or bottom <= above or below <= top
    for one in grid.nodes:
        lines = len(one.lines) + one.anchored
        assert all(clean(line, int(one.wide / LETTER)) == line for line in one.lines)
        assert not lines or 13 * lines < one.high + 1


@given(st.integers(0, 3000), st.integers(1, 40))
def test_bundles_hold_everything_once_and_are_few_and_alike(count, most):
    bundles = bundled(count, most)
    assert [one for some in bundles for one in some] == list(range(count))
    assert len(bundles) <= most and len({len(some) for some in bundles[:-1]}) <= 1


@given(pictures())
def test_every_update_is_in_the_mark_where_its_owner_and_its_round_meet(both):
    owners, rounds = both
    grid = placed(owners, rounds)
    marks = {(one.row, one.column) for one in grid.nodes if one.kind == "update"}
    size = len(grid.rows[0]), len(grid.columns[0])
    wanted = {(row // size[0], at // size[1]) for at, one in enumerate(rounds) for row in one.rows}
    assert marks == wanted


def closure(us):
    """Link the picture's marks as its script does."""
    links = nx.DiGraph()
    for one in us.grid.nodes:
        links.add_node(one.name)
        links.add_edges_from((source, one.name) for source in (*one.sources, one.after) if source)
    return links


@given(parts, st.sets(st.integers(1, 5)))
def test_what_lights_up_is_what_the_events_were_made_from(rounds, unused):
    us = drawn(told_by(rounds, unused=unused), [paid(len(rounds))])
    # The same, from the events alone: who trained on what, and which model it was that they had.
    events = nx.DiGraph()
    for at, some in enumerate(rounds):
        events.add_edge(("update", None, at), ("round", at))
        for one in some:
            events.add_edge(("data", one), ("update", one, at))
            events.add_edge(("update", one, at), ("round", at))
            if at:
                events.add_edge(("model", at - 1), ("update", one, at))
        if at:
            events.add_edge(("model", at - 1), ("round", at))
            events.add_edge(("model", at - 1), ("model", at))
        if some and at + 1 not in unused:
            events.add_edge(("round", at), ("model", at))
        events.add_edge(("model", at), ("any", at))
    events.add_edge(("model", len(rounds) - 1), ("payout", len(rounds) - 1))
    everyone = sorted({one for some in rounds for one in some})
    called = {("data", one): f"d{at}" for at, one in enumerate(everyone)}
    for at, some in enumerate(rounds):
        called |= {("update", one, at): f"u{everyone.index(one)}.{at}" for one in some}
        called |= {(kind, at): f"{kind[0]}{at}" for kind in ("round", "model")}
    called["payout", len(rounds) - 1] = f"p{len(rounds) - 1}"
    links = closure(us)
    assert set(links) == set(called.values())
    for one, name in called.items():
        for reach in (nx.ancestors, nx.descendants):
            assert reach(links, name) == {called[at] for at in reach(events, one) if at in called}


@settings(max_examples=20)
@given(parts)
def test_the_page_carries_every_commitment_of_the_log(rounds):
    said = told_by(rounds)
    found = data(drawn(said)._repr_html_())
    assert found["bytes"] == 32
    owners = [one["name"] for one in found["owners"]]
    shown = set()
    for one in found["rounds"]:
        who = [at for at in range(len(owners)) if int(one["who"], 16) >> at & 1]
        raw = b64decode(one["commitments"])
        assert one["weights"] is None and len(raw) == 32 * len(who)
        for place, at in enumerate(who):
            shown.add((one["round"], owners[at], raw[32 * place : 32 * place + 32]))
    assert shown == {
        (body["round"], f"client/{body['client']}", body["commitment"])
        for kind, body, _ in said
        if kind == "update"
    }


@given(st.text(), st.integers(2, 30))
def test_cut_text_has_its_width_and_nothing_unseen(text, most):
    cut = clean(text, most)
    assert cut.isprintable() and len(cut) <= most and clean(cut, most) == cut


def test_three_clients_and_two_rounds_are_told_from_their_log(tmp_path):
    said = told_by([[0, 1, 2], [0, 2]], anchored=1)
    us = lineage(logged(tmp_path, [*said, (*paid(2), SERVER)]))
    assert us.doubts == () and us.owners == ("client/0", "client/1", "client/2")
    lines = {one.name: one.lines for one in us.grid.nodes}
    assert lines["d1"] == ("client/1", "11 examples") and lines["p1"] == ("1 paid",)
    assert lines["m1"] == (f"…{said[-2][1]['cid'][-5:]}",)
    assert {one.name: one.anchored for one in us.grid.nodes if one.kind == "round"} == {
        "r0": True,
        "r1": False,
    }
    page = Page(us._repr_html_())
    assert page.open == [] and "3 owners of 33 examples, 5 updates in 2 rounds" in page.text
    names = [one["data-name"] for tag, one in page.tags if tag == "g"]
    assert names == [one.name for one in us.grid.nodes] and len(set(names)) == len(names)
    assert all(one["aria-label"] for tag, one in page.tags if tag == "g")
    found = data(us._repr_html_())
    assert found["owners"][1] == {
        "name": "client/1", "key": client(1).public.hex()[:8], "examples": "11",
        "root": found["owners"][1]["root"], "license": "CC BY 4.0", "granted": "2",
    }  # fmt: skip
    assert b64decode(found["owners"][1]["root"]) == digest("root", 1)
    assert found["anchors"][0]["transaction"] == f"0x{1:064x}"
    assert [one["anchor"] for one in found["rounds"]] == [0, None]
    assert found["rounds"][1]["payouts"]["to"] == [[0, "7"]] and found["payees"] == ["0xbeef"]


def test_a_later_anchor_covers_earlier_rounds(tmp_path):
    said = [one for one in told_by([[0], [0], [0]], anchored=2) if one[1].get("block") != 1]
    us = lineage(logged(tmp_path, said))
    assert {at: one.body["round"] for at, one in us.anchors.items()} == {1: 2, 2: 2}


def test_a_forged_event_is_left_out_and_said(tmp_path):
    said = told_by([[0, 1], [0, 1]])
    place = logged(tmp_path, said) / "ledger.sqlite"
    at = next(at for at, one in enumerate(said) if one[0] == "update" and one[1]["client"] == 1)
    raw = bytearray(signed(*said[at]))
    raw[-1] ^= 1
    with sqlite3.connect(place) as base:
        base.execute("UPDATE event SET raw = ? WHERE place = ?", (bytes(raw), at))
    us = lineage(tmp_path)
    assert us.doubts[0] == f"event {at}: the signature of this update is not its author's"
    marks = {one.name for one in us.grid.nodes if one.kind == "update"}
    assert marks == {"u0.0", "u0.1", "u1.1"}
    assert f"event {at}: the signature" in Page(us._repr_html_()).text


def test_a_stranger_neither_pays_nor_anchors(tmp_path):
    said = told_by([[0]])
    strange = {"round": 1, "size": 1, "chain": 1, "contract": "", "run": digest(), "block": 1}
    more = [("anchored", {**strange, "transaction": ""}, STRANGER), (*paid(1), STRANGER)]
    us = lineage(logged(tmp_path, [*said, *more]))
    assert us.payouts == () and us.anchors == {} and len(us.doubts) == 2


def test_text_from_a_log_cannot_become_markup(tmp_path):
    more = {"owner": EVIL, "root": bytes(32), "size": 2**62, "license": EVIL}
    said = [*told_by([[0]], license=EVIL), ("dataset", more, STRANGER), (*paid(1, EVIL), SERVER)]
    us = lineage(logged(tmp_path, said))
    html = us._repr_html_()
    page = Page(html)
    assert page.open == []
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "img" not in {tag for tag, _ in page.tags}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "innerHTML" not in html and "49" not in page.text
    found = data(html)
    assert found["owners"][1]["name"] == found["payees"][0] == clean(EVIL, 90)
    assert "\u202e" not in html
    # Its dollars are no formula of matplotlib's either.
    assert rendered(us.figure(), "svg")


def test_the_picture_needs_nothing_but_itself():
    html = drawn(told_by([[0, 1], [1]]))._repr_html_()
    assert not re.search(r"https?:|@import|url\(|//[a-z]|\bfetch\b|\bimport\b|eval", html)
    assert "prefers-color-scheme: dark" in html


@pytest.mark.skipif(shutil.which("node") is None, reason="nothing here reads JavaScript")
def test_its_script_is_one(tmp_path):
    html = drawn(told_by([[0]]))._repr_html_()
    (tmp_path / "it.js").write_text(re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1])
    subprocess.run(["node", "--check", tmp_path / "it.js"], check=True)


@pytest.mark.parametrize("weight", [None, lambda one: 1 / (3 + one)])
def test_a_hundred_clients_in_two_hundred_rounds_stay_below_400_kb(weight):
    everyone = list(range(100))
    us = drawn(
        told_by([everyone] * 200, anchored=200, weight=weight),
        [paid(at, f"0x{one:040x}", 10**15) for at in range(1, 201) for one in everyone],
    )
    html = us._repr_html_()
    assert len(html.encode()) < 400_000
    assert len(us.grid.nodes) < 300
    found = data(html)
    assert found["bytes"] == 4
    assert sum(one["payouts"]["count"] for one in found["rounds"]) == 20_000


def test_of_very_many_those_who_did_most_are_drawn_and_that_is_said():
    rounds = [[7], *([one] for one in range(449))]
    us = drawn(told_by(rounds, owners=range(3000)))
    assert len(us.owners) == 400 and us.owners[7] == "client/7" and us.rounds[-1] == 450
    html = us._repr_html_()
    assert "drawn: 400 owners, the last 400 rounds" in html and len(html) < 600_000


@pytest.mark.parametrize("dark", [False, True])
def test_the_still_picture_keeps_its_words_inside(dark):
    from matplotlib.image import imread

    us = drawn(told_by([[0, 1, 2], [0], [1, 2]], anchored=2, unused={2}), [paid(1)])
    figure = us.figure(dark=dark)
    image = imread(BytesIO(rendered(figure, "png", dark=dark)), format="png")[..., :3]
    assert (image[0, 0].max() < 0.12) == dark
    words = figure.axes[0].texts
    drawer = figure.canvas.get_renderer()
    boxes = [one.get_window_extent(drawer) for one in words]
    for at, one in enumerate(boxes):
        assert figure.bbox.x0 <= one.x0 and one.x1 <= figure.bbox.x1
        assert not any(one.overlaps(other) for other in boxes[:at])
    assert {"data", "updates", "rounds", "models", "payouts", "client/2", "⚓"} <= {
        one.get_text() for one in words
    }


def test_a_run_without_a_log_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"holds no ledger.sqlite: give one run's that had ledger"):
        lineage(tmp_path)
    logged(tmp_path, told_by([[0]])[:-1])
    with pytest.raises(ValueError, match="tells of no whole round"):
        lineage(tmp_path)


def test_a_report_shows_the_first_seed_of_each_setting_with_a_log(studies, tmp_path):
    for attack, seed in (("none", 0), ("none", 1), ("alie", 0), ("ipm", 0)):
        place = studies.write(tmp_path, studies.config(attack, seed, rounds=2))
        if attack == "ipm":
            (place / "ledger.sqlite").write_bytes(b"no log at all")
        else:
            logged(place, told_by([[0, 1], [1]]))
    written = report(tmp_path)
    html = written.read_text()
    page = Page(html)
    assert page.open == []
    boxes = [one for _, one in page.tags if one.get("class") == "dai-lineage"]
    assert len(boxes) == 2
    assert html.index("attack=alie (alie-0)") < html.index("<details><summary>attack=none (none-0)")
    assert "1 more run has a log" in page.text
    assert re.search("ipm-0: ledger: .* cannot be used: file is not a database", page.text)
    assert not re.search(r"https?:|@import|url\(|//[a-z]", re.sub(r"base64,[\w+/=]+", "", html))
    assert ET.parse(written.parent / "lineage.svg").getroot().tag.endswith("svg")
    # The same log, the same page.
    assert lineage(tmp_path / "alie-0")._repr_html_() in html


def test_a_run_that_was_played_shows_where_its_model_came_from(tmp_path, monkeypatch):
    monkeypatch.setenv("DAI_LAB_KEYS", str(tmp_path / "keys"))
    cfg = load(
        "data=digits", "model=logistic", "federation.clients=3", "rounds=2", "ledger=local",
        "chain=embedded", f"results={tmp_path / 'results'}",
    )  # fmt: skip
    simulate(cfg, progress=False)
    [place] = {one.parent for one in (tmp_path / "results").rglob("ledger.sqlite")}
    us = lineage(place)
    assert us.doubts == () and us.history.end is not None and set(us.anchors) == {1, 2}
    assert sum(one.kind == "update" for one in us.grid.nodes) == 6
    assert data(us._repr_html_())["rounds"][1]["snapshot"].startswith("bafkrei")
