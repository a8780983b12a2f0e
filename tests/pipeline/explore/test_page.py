import base64
import io
import os
import re
import stat
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from richsem_prep.cli import app
from richsem_prep.explore import page as page_module
from richsem_prep.explore.page import page_html, write_page
from richsem_prep.explore.shown_views import choose_views
from richsem_schemas.cache.manifest import LabelSpec
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.errors import CorruptCacheError, RichSemError
from tests.caches import LABELS, SyntheticCache


class Page(HTMLParser):
    """Collects the elements of a page and checks that they are balanced."""

    VOID = frozenset({"meta", "img", "rect"})

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag, **attributes):
        return [found for name, found in self.elements
                if name == tag and all(found.get(key) == value for key, value in attributes.items())]  # fmt: skip


@pytest.fixture(scope="module")
def text(finished_cache, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "views.html"
    assert write_page(open_cache(finished_cache.layout.out), LABELS, path, views=12, root=None) == 12
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_each_view_has_its_picture_boxes_and_lists(page):
    # Half of them crops with a region each, half mosaics with four.
    assert len(page.all("article")) == 12
    assert len(page.all("img")) == 12
    assert len(page.all("rect", **{"class": "box"})) == 6 + 4 * 6
    assert len(page.all("li")) == 6 + 4 * 6


def test_each_region_shows_five_classes_and_the_rest(page):
    assert len(page.all("tr")) == 30 * 6
    assert len(page.all("tr", **{"class": "rest"})) == 30
    assert page.texts.count("2 other classes") == 30


def test_boxes_and_lists_share_their_colours(page):
    boxes = [attributes["class"] for attributes in page.all("g")]
    lists = [attributes["class"] for attributes in page.all("li")]
    assert boxes == lists
    assert boxes[-4:] == ["c0", "c1", "c2", "c3"]


def test_nothing_comes_from_elsewhere(text, page):
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"https?:|url\(|@import", text)
    sources = [value for _, attributes in page.elements for key, value in attributes.items() if key in {"src", "href"}]
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")


def test_names_from_the_cache_are_escaped(text, page):
    assert "<script" not in text
    assert "c &lt;script&gt;alert(1)&lt;script&gt;" in text
    assert "c <script>alert(1)<script>" in "".join(page.texts)
    assert not [attributes for _, attributes in page.elements if any(key.startswith("on") for key in attributes)]


def test_letters_that_steer_a_browser_are_replaced(finished_cache, monkeypatch):
    monkeypatch.setattr(page_module, "_facts", lambda *_: {"Seed": "a\u202eb\x1b[2J\0<b>'\""})
    cache = open_cache(finished_cache.layout.out)
    text = page_html(cache, cache.label_sets[LABELS], [])
    assert "<dd>a\ufffdb\ufffd[2J\ufffd&lt;b&gt;&#39;&#34;</dd>" in text
    assert not re.search(r"[\0\x1b\u202e]", text)


def test_file_names_are_escaped(finished_cache, tmp_path):
    path = tmp_path / "all.html"
    write_page(open_cache(finished_cache.layout.out), LABELS, path, views=500, root=None)
    text = path.read_text("utf-8")
    assert "an &lt;img src=x&gt; &amp; name.png" in text
    assert "<img src=x" not in text
    assert len(Page(text).all("article")) == 62


def test_pictures_are_the_rendered_views(finished_cache, page):
    cache = open_cache(finished_cache.layout.out)
    for attributes, (shard, row) in zip(page.all("img"), choose_views(cache, LABELS, 12), strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2])))
        (labelled,) = cache.label_shard(LABELS, shard).views(np.array([row]))
        assert picture.size == labelled.view.canvas_hw[::-1]
        assert (attributes["width"], attributes["height"]) == tuple(map(str, picture.size))


def test_views_come_from_different_kinds_shards_and_passes(finished_cache):
    cache = open_cache(finished_cache.layout.out)
    chosen = choose_views(cache, LABELS, 12)
    assert chosen == choose_views(cache, LABELS, 12)
    assert [row["kind"] for _, row in chosen] == ["crop"] * 6 + ["mosaic"] * 6
    mosaics = {(shard, int(row["pass"])) for shard, row in chosen[6:]}
    assert mosaics == {(shard, number) for shard in range(3) for number in range(2)}
    assert len({(shard, row["key"], row["kind"], int(row["pass"])) for shard, row in chosen}) == 12


@pytest.mark.parametrize(("views", "shown"), [(1, 1), (3, 3), (60, 60), (500, 62)])
def test_few_views_and_many_are_both_fine(finished_cache, views, shown):
    assert len(choose_views(open_cache(finished_cache.layout.out), LABELS, views)) == shown


def test_the_same_cache_makes_the_same_page(finished_cache, tmp_path, text):
    write_page(open_cache(finished_cache.layout.out), LABELS, tmp_path / "again.html", views=12, root=None)
    assert (tmp_path / "again.html").read_text("utf-8") == text


def test_referenced_pictures_are_found_by_plan_or_by_root(pictures_root, tmp_path):
    cache = SyntheticCache(pictures_root, tmp_path / "out", pictures="reference").make()
    opened = open_cache(cache.layout.out)
    assert write_page(opened, LABELS, tmp_path / "a.html", views=4, root=None) == 4
    assert write_page(opened, LABELS, tmp_path / "b.html", views=4, root=pictures_root) == 4
    with pytest.raises(RichSemError, match=r"can't be read \(No such file .*say so with --root"):
        write_page(opened, LABELS, tmp_path / "c.html", views=4, root=tmp_path)
    assert not (tmp_path / "c.html").exists()


def test_a_missing_folder_is_named(finished_cache, tmp_path):
    opened = open_cache(finished_cache.layout.out)
    with pytest.raises(RichSemError, match=r"there is no folder .*/absent; make it"):
        write_page(opened, LABELS, tmp_path / "absent" / "x.html", views=1, root=None)
    with pytest.raises(RichSemError, match="is a folder; name a file in it"):
        write_page(opened, LABELS, tmp_path, views=1, root=None)


def test_a_huge_canvas_is_refused_before_it_is_rendered(cache):
    labels = cache.label_set
    data = bytearray(labels.tar(0).read_bytes())
    dtype = LabelSpec.read(labels.spec).record_layout
    for row in LabelShard(labels, 0).rows():
        start = row["offset"] + row["size"] - dtype.record_dtype(int(row["tiles"]), int(row["regions"])).itemsize
        data[start : start + 8] = np.array([2**30, 2**30], "<i4").tobytes()
    labels.tar(0).write_bytes(data)
    with pytest.raises(CorruptCacheError, match="its canvas has no area, or too much"):
        write_page(open_cache(cache.layout.out), LABELS, cache.layout.out.parent / "x.html", views=12, root=None)


def test_a_set_without_views_makes_an_empty_page(pictures_root, tmp_path):
    cache = SyntheticCache(pictures_root, tmp_path / "out", crops=0, mosaics=0).make()
    assert write_page(open_cache(cache.layout.out), LABELS, tmp_path / "x.html", views=12, root=None) == 0
    assert not Page((tmp_path / "x.html").read_text("utf-8")).all("article")


def test_the_command_writes_the_page(finished_cache, tmp_path):
    html = tmp_path / "views.html"
    result = CliRunner().invoke(app, ["view", str(finished_cache.layout.out), "--html", str(html), "--views", "2"])
    assert result.exit_code == 0
    assert result.stdout.strip() == f"{html}: 2 views"
    assert len(Page(html.read_text("utf-8")).all("article")) == 2


def test_a_page_does_not_take_the_place_of_a_pipe(finished_cache, tmp_path):
    pipe = tmp_path / "page"
    os.mkfifo(pipe)
    result = CliRunner().invoke(app, ["view", str(finished_cache.layout.out), "--html", str(pipe), "--views", "2"])
    assert isinstance(result.exception, RichSemError)
    assert "page is a pipe, a device or a socket" in str(result.exception)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
