"""`rcnn models` lists what the registries hold."""

from __future__ import annotations

import json

import pytest

from rcnn import backbones
from rcnn.cli import main


def test_json_lists_every_backbone_with_weights_that_name_file_licence_and_source(capsys: pytest.CaptureFixture):
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [b["name"] for b in listed["backbones"]] == backbones.names()
    assert "faster-rcnn" in [s["name"] for s in listed["systems"]]
    for backbone in listed["backbones"]:
        assert backbone["parameters"] > 0
        assert all(w["files"] and w["licence"] and w["source"] for w in backbone["weights"])


def test_each_system_lists_the_schemes_that_it_can_be_trained_by(capsys: pytest.CaptureFixture):
    assert main(["models", "faster-rcnn", "--json"]) == 0
    (system,) = json.loads(capsys.readouterr().out)["systems"]
    assert system["schemes"][0] == "joint"
    assert main(["models", "faster-rcnn"]) == 0
    header, row = capsys.readouterr().out.splitlines()[:2]
    assert "schemes" in header
    assert "joint" in row


def test_table_is_narrowed_by_a_pattern(capsys: pytest.CaptureFixture):
    assert main(["models", "resnet*-c5"]) == 0
    out = capsys.readouterr().out
    assert "resnet101-c5" in out
    assert "resnet101-c4" not in out
    assert "faster-rcnn" not in out.splitlines()[0]


def test_a_part_of_a_name_is_enough(capsys: pytest.CaptureFixture):
    assert main(["models", "mobilenet", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["backbones"]) == 6


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest(capsys: pytest.CaptureFixture):
    assert main(["models", "resnet19-fpn"]) == 2
    assert "did you mean" in capsys.readouterr().err
