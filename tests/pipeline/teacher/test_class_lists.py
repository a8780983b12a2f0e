import json

import pytest

from richsem_prep.sources.class_names import MAX_NAME_CHARACTERS
from richsem_prep.teacher.class_lists import read_templates, read_vocabulary
from richsem_schemas.errors import SourceError
from richsem_schemas.vocabularies.known import known_vocabulary


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_plain_list_has_one_name_a_line_below_row_0(tmp_path):
    vocabulary = read_vocabulary(write(tmp_path / "pets.txt", "\ufeffcat\n\n dog_(small) \r\nÄffchen\n"))
    assert vocabulary.class_names == ("none", "cat", "dog_(small)", "Äffchen")
    assert vocabulary.name == "pets.txt"


def test_a_list_that_begins_with_none_has_row_0_already(tmp_path):
    assert read_vocabulary(write(tmp_path / "pets.txt", "none\ncat\n")).class_names == ("none", "cat")


def test_categories_of_an_annotation_file_come_by_ascending_id_whatever_stands_around_them(tmp_path):
    value = {
        "images": [{"id": 1, "categories": [{"id": 9, "name": "a trap"}]}],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person ", "synonyms": ["man"]}],
        "annotations": [{"category_id": 1, "bbox": [0.5, 1, 2, 3]}],
    }
    vocabulary = read_vocabulary(write(tmp_path / "a.json", json.dumps(value)))
    assert vocabulary.class_names == ("none", "person ", "toothbrush")


def test_a_plan_gives_the_vocabulary_of_its_cache(tmp_path):
    value = {"dataset": "x", "vocabulary": {"name": "folders", "class_names": ["none", "cat"]}}
    vocabulary = read_vocabulary(write(tmp_path / "plan.json", json.dumps(value)))
    assert (vocabulary.name, vocabulary.class_names) == ("folders", ("none", "cat"))


def test_class_descriptions_of_open_images_may_have_a_header(tmp_path):
    lines = '/m/011k07,Tortoise\n/m/0x,"Kitchen, dining table"\n'
    for header in ("", "LabelName,DisplayName\n"):
        found = read_vocabulary(write(tmp_path / "names.csv", header + lines))
        assert found.class_names == ("none", "Tortoise", "Kitchen, dining table")


def test_a_known_list_needs_no_file():
    assert read_vocabulary("coco") == known_vocabulary("coco")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.txt", "cat\ndog\ncat\n", "'cat' stands twice"),
        ("a.txt", "cat\nnone\n", "a class is called 'none'"),
        ("a.txt", "none\nnone\ncat\n", "a class is called 'none'"),
        ("a.txt", "\n \n", "holds no names"),
        ("a.txt", "x" * (MAX_NAME_CHARACTERS + 1), "can't name a class"),
        ("a.txt", "\x1b[31mred", "can't name a class"),
        ("a.json", "{}", "no `categories`"),
        ("a.json", '{"categories": [', "not a JSON file"),
        ("a.json", '{"categories": [{"id": 1}]}', "a category is"),
        ("a.json", '{"categories": [{"id": true, "name": "x"}]}', "a category is"),
        ("a.json", '{"categories": [{"id": 1, "name": "x"}, {"id": 1, "name": "y"}]}', "id 1 stands twice"),
        ("a.json", '{"categories": [{"id": 1, "name": " "}]}', "can't name a class"),
        ("a.csv", "one,two,three\n", "line 1 is not"),
        ("a.csv", "/m/1,x\nhello,y\n", "line 2"),
    ],
)
def test_names_that_can_not_be_classes_are_refused_with_their_file(tmp_path, file, text, message):
    path = write(tmp_path / file, text)
    with pytest.raises(SourceError, match=message) as caught:
        read_vocabulary(path)
    assert file in str(caught.value)


def test_more_names_than_a_text_bank_may_have_are_refused(tmp_path):
    with pytest.raises(SourceError, match="more than 131,072"):
        read_vocabulary(write(tmp_path / "a.txt", "\n".join(map(str, range(140_000)))))


def test_bytes_that_are_no_utf8_and_missing_files_are_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00c")
    with pytest.raises(SourceError, match="can't be read"):
        read_vocabulary(str(tmp_path / "a.txt"))
    with pytest.raises(SourceError, match="neither a file nor a known list"):
        read_vocabulary("lviss")


def test_templates_are_the_given_ones_the_bare_name_or_a_file(tmp_path):
    assert read_templates("openai", ("{}.", "a {}")) == ("{}.", "a {}")
    assert read_templates("name-only", ()) == ("{}",)
    assert read_templates(write(tmp_path / "t.txt", "a photo of a {}.\n{}\n"), ()) == ("a photo of a {}.", "{}")


@pytest.mark.parametrize("line", ["a photo", "{} and {}", "{0}", "{}{", "{0.__class__}{}", "{}" + "x" * 400])
def test_a_line_that_is_no_template_is_refused(tmp_path, line):
    with pytest.raises(SourceError, match="is no template"):
        read_templates(write(tmp_path / "t.txt", line), ())


def test_no_templates_the_same_twice_and_missing_files_are_refused(tmp_path):
    with pytest.raises(SourceError, match="holds 0 templates"):
        read_templates(write(tmp_path / "t.txt", ""), ())
    with pytest.raises(SourceError, match="stands twice"):
        read_templates(write(tmp_path / "t.txt", "{}\n{}\n"), ())
    with pytest.raises(SourceError, match="name-only"):
        read_templates("no such file", ())
