from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from rcnn.data.dataset import Truth
from rcnn.errors import UserError
from rcnn.evaluation import Prediction, judge
from rcnn.report import Sample, write_run_report
from rcnn.report.history import column
from rcnn.report.run_report import describe

VOID = {"meta", "img", "br", "input", "link"}


class Page(HTMLParser):
    """Collects the tags and addresses of a page, and checks that every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.text = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(run, **arguments):
    text = write_run_report(run, **arguments).read_text(encoding="utf-8")
    page = Page(text)
    page.words = " ".join(" ".join(page.text).split())
    return text, page


def test_the_report_shows_figures_with_their_protocol_charts_pictures_recipe_and_commands(tmp_path, run_arguments):
    arguments = run_arguments()
    _, page = read(tmp_path / "run", **arguments)
    result = arguments["result"]
    for words in (f"{result.mAP:.3f}", f"{result.AP50:.3f}", *result.rules, "Loss", "Learning rate", "Confusion"):
        assert words in page.words
    assert page.words.count("rcnn predict") == page.words.count("rcnn eval") == page.words.count("rcnn.load(") == 1
    assert "[[stages]]" in page.words
    assert "2.15" in page.words
    assert page.tags.count("svg") == 5
    assert page.tags.count("img") == 12


def test_nothing_is_loaded_from_elsewhere(tmp_path, run_arguments):
    text, page = read(tmp_path, **run_arguments())
    assert page.addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert not re.search(r"https?:|url\(|@import|<script|<link", text)
    assert "default-src 'none'" in text


@pytest.mark.parametrize("protocol", ["coco", "voc07"])
def test_what_users_name_is_shown_and_never_run(tmp_path, run_arguments, protocol):
    evil = "<script>alert('x')</script>"
    arguments = run_arguments(classes=(evil, "a & b", '"quoted"'), protocol=protocol)
    arguments["samples"] = [dataclasses.replace(s, name=evil + s.name) for s in arguments["samples"]]
    arguments |= {"recipe": evil, "environment": {evil: evil}, "title": evil, "data": evil}
    text, page = read(tmp_path, **arguments)
    assert "script" not in page.tags
    assert "<script" not in text
    assert evil in page.words


def test_dark_and_light_and_narrow_are_in_the_page(tmp_path, run_arguments):
    text, _ = read(tmp_path, **run_arguments())
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    assert "max-width: 600px" in text


def test_plots_are_written_as_pictures(tmp_path, run_arguments):
    write_run_report(tmp_path, **run_arguments(classes=("$x$", "_hidden", "c^2")))
    for name in ("losses", "pr", "confusion"):
        with Image.open(tmp_path / "plots" / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_eighty_classes_show_the_worst_of_the_matrix_and_say_so(tmp_path, run_arguments):
    _, page = read(tmp_path, **run_arguments(classes=[f"class {i}" for i in range(80)]))
    assert "56 more are not shown" in page.words
    assert "Classes without an object are not in the mean" in page.words


def test_a_run_without_log_or_pictures_still_has_a_report(tmp_path, run_arguments):
    arguments = run_arguments() | {"metrics": [], "samples": []}
    _, page = read(tmp_path, **arguments)
    assert "Learning rate" not in page.words
    assert "Pictures" not in page.words


def test_rows_without_a_number_are_left_out():
    rows = [{"step": 1, "loss": 2}, {"step": 2, "loss": ""}, {"step": 3, "loss": None}, {"step": 4, "loss": "nan"}]
    steps, values = column([*rows, {"step": 5, "loss": "0.5"}, {"loss": 3}], "loss")
    assert steps.tolist() == [1, 5]
    assert values.tolist() == [2, 0.5]


def test_the_worst_pictures_have_the_highest_loss_where_it_is_known(tmp_path, run_arguments):
    arguments = run_arguments()
    flawed = [s.name for s in arguments["samples"] if judge(s.truth, s.prediction).wrong]
    losses = dict(zip(flawed, range(100), strict=False))
    arguments["samples"] = [dataclasses.replace(s, loss=float(losses.get(s.name, 0))) for s in arguments["samples"]]
    text, _ = read(tmp_path, **arguments)
    assert re.findall(r"<b>(.*?)</b>", text)[:6] == flawed[::-1][:6]


def test_what_went_wrong_is_said_in_words():
    box, other, third = [10, 10, 40, 40], [60, 60, 90, 90], [100, 10, 140, 50]
    none = np.zeros(4, bool)
    truth = Truth(np.float32([box, other, third, [0, 90, 20, 119]]), np.array([0, 1, 1, 1]), none, none, [None] * 4)
    found = Prediction(np.array([box, other, [120, 90, 150, 118]]), np.array([0.9, 0.8, 0.7]), np.array([0, 0, 1]))
    sample = Sample(np.zeros((120, 160, 3), np.uint8), truth, found, "x", loss=1.5)
    words = describe(sample, judge(truth, found), ["cat", "dog"])
    assert words == (
        "1 of 4 found; missed: dog ×2; wrong class: dog taken for cat (0.80); nothing there: dog (0.70); loss 1.50"
    )


def test_a_report_that_cannot_be_written_is_told_in_one_sentence(tmp_path, run_arguments):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match="is a file where a folder was expected"):
        write_run_report(tmp_path / "run", **run_arguments())
