# SPDX-License-Identifier: Apache-2.0
"""The page: one file that loads nothing, holds every op, and cannot be broken out of by a model's names."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import reports
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.baseline import judge
from porter.places import Places
from porter.report.formats import Context, render
from porter.report.layout import lay_out


class Page(HTMLParser):
    """Elements, the texts of the scripts, and the text that is shown."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.shown, self._inside = [], [], [], "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.shown += data


def page(gate, paths=None):
    return Page(render("html", gate, Context("Cambricon MLU270", None, paths or Places())))


def graph(made):
    data = json.loads(made.scripts[0])
    names = [data["texts"][node[1]] for node in data["nodes"]]
    return data, {(names[a], names[b]) for a, b in data["edges"]}


def test_every_op_and_edge_is_in_the_graph(tmp_path):
    data, edges = graph(page(*reports.gate(tmp_path)))
    verdicts = [data["verdicts"][node[2]] for node in data["nodes"]]
    assert verdicts == ["native", "fold", "rewrite", "unsupported", "unknown", "host"]
    assert edges == {("conv", "shape_1"), ("conv", "set_1"), ("set_1", "nonzero"), ("set_1", "silu"), ("silu", "topk")}


def test_the_list_needs_no_script(tmp_path):
    shown = page(*reports.gate(tmp_path)).shown
    assert "there is no nonzero | <b> 100% @you" in shown and "net/head.py:7 in head" in shown
    assert "3 ops (1 on the host) would be left after porter rewrite; 5 findings." in shown


def test_nothing_is_loaded(tmp_path):
    made = page(*reports.gate(tmp_path))
    assert not {"link", "img", "iframe", "object", "base"} & set(made.tags)
    assert not [value for name, value in made.attributes if name in ("src", "action", "srcset")]
    assert all(value.startswith("#op") for name, value in made.attributes if name == "href")
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|import\(", "".join(made.scripts))
    assert any("default-src 'none'" in (value or "") for _, value in made.attributes)


@settings(max_examples=40)
@given(st.text(max_size=40))
def test_no_name_breaks_out(name):
    plain = page(judge(reports.report([reports.op("x", "n", "unsupported", reason="PT101: x")])))
    evil = f"</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'{name}"
    made = page(judge(reports.report([reports.op(evil, evil, "unsupported", reason=f"PT101: {evil}")])))
    assert made.tags == plain.tags
    data, _ = graph(made)
    assert data["texts"][data["nodes"][0][0]] == evil


def chain(length):
    return [reports.op("relu", f"n{i}", "native", reads=(f"n{i - 1}",) if i else ()) for i in range(length)]


def test_an_op_is_below_what_it_reads_and_beside_its_row():
    made = lay_out(reports.ops())
    assert all(made.layer[a] < made.layer[b] for a, b in made.edges)
    rows = {}
    for index, row in enumerate(made.layer):
        rows.setdefault(row, []).append(made.x[index])
    for row in rows.values():
        row.sort()
        assert all(b - a >= 1 - 1e-9 for a, b in pairwise(row))


def test_a_chain_is_a_straight_line():
    made = lay_out(chain(50))
    assert made.layer == list(range(50)) and set(made.x) == {0.0}


def test_constants_stand_beside_their_reader():
    made = lay_out([reports.op("full", "c", "fold"), *chain(5), reports.op("add", "a", "native", reads=("n4", "c"))])
    assert made.layer[0] == 4 and made.layer[-1] == 5


def test_a_large_graph_is_one_page_of_sane_size():
    text = render("html", judge(reports.report(chain(30_000))), Context("x", None, Places()))
    assert len(text) < 6_000_000
