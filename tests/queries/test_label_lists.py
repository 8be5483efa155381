import json

import pytest

from clip_core.zero_shot import SIMPLE_TEMPLATES
from pipelines.queries.label_lists import read_labels, read_templates

RGB = ("red", "green", "blue")


@pytest.mark.parametrize(
    "content",
    [
        "red\n\n  green \r\nblue",
        "\ufeffred\ngreen\nblue\n",
        json.dumps(RGB),
        json.dumps(RGB, indent=2),
        "\ufeff " + json.dumps(RGB, indent=2),
        json.dumps({"0": "red", "1": "green", "2": "blue"}),
        json.dumps({"2": "blue", "1": "green", "0": "red"}),
        json.dumps({"0": ["n01", "red"], "1": ["n02", "green"], "2": ["n03", "blue"]}),
        json.dumps({"blue": 2, "red": 0, "green": 1}),
        json.dumps([{"id": 1, "name": name} for name in RGB]),
        json.dumps([{"label": name} for name in RGB]),
    ],
)
@pytest.mark.parametrize("name", ["labels.json", "labels.txt", "labels"])
def test_every_form_of_a_file_gives_the_same(tmp_path, content, name):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_labels(str(tmp_path / name)) == RGB


def test_numbers_of_classes_are_no_texts(tmp_path):
    names = {str(n): f"class {n}" for n in range(12)}
    (tmp_path / "l.json").write_text(json.dumps(dict(sorted(names.items()))))
    assert read_labels(str(tmp_path / "l.json")) == tuple(f"class {n}" for n in range(12))


@pytest.mark.parametrize("value", ["red, green,blue", '["red", "green", "blue"]'])
def test_flag_itself_may_be_the_list(value):
    assert read_labels(value) == RGB


@pytest.mark.parametrize(
    "content",
    ['["red", "green"', '[\n"red",\n', '{"red": ', "[1, 2]", "[null]", '{"a": {"b": 1}}', '[""]',
     '{"red": "rouge", "green": "vert"}', '[["red", 3]]', '[{"title": "red"}]'],
)  # fmt: skip
def test_json_that_is_no_list_of_labels_is_refused(tmp_path, content):
    (tmp_path / "l.json").write_text(content)
    with pytest.raises(ValueError, match="expected labels one a line, as"):
        read_labels(str(tmp_path / "l.json"))


def test_line_may_begin_with_a_bracket(tmp_path):
    (tmp_path / "l.txt").write_text("[unknown]\n{other}\nred\n")
    assert read_labels(str(tmp_path / "l.txt")) == ("[unknown]", "{other}", "red")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a photo of a {}, a type of pet.", ("a photo of a {}, a type of pet.",)),
        ("a {}, the {}", ("a {}", "the {}")),
        ("a/an {}", ("a/an {}",)),
        ("simple", SIMPLE_TEMPLATES),
        ("none", ("{}",)),
    ],
)
def test_template_on_the_command_line_may_have_a_comma(value, expected):
    assert read_templates(value) == expected


@pytest.mark.parametrize("name", ["no/such.txt", "classes.json", "c.csv"])
def test_absent_file_is_no_label(name):
    with pytest.raises(ValueError, match=f"there is no file '{name}'"):
        read_labels(name)
