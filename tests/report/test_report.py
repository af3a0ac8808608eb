"""report.html and curve.svg: self-contained, escaped, well formed, and made of the numbers in results.json."""

import html
import html.parser
import json
import re
import xml.etree.ElementTree as ElementTree

import cascade_tables
import pytest

from cat_jax.cascade.experiment import cascade
from cat_jax.report.chart import Axes, Series, line_chart, stacked_areas
from cat_jax.report.files import write_report
from cat_jax.report.page import render_report
from cat_jax.report.prose import findings
from cat_jax.report.text import objectives_table

HOSTILE = """<script>alert('1')</script>&"quoted"</table>"""
VOID = {"meta", "br", "img", "link", "input", "hr"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An experiment whose every text is hostile."""
    root = tmp_path_factory.mktemp("report")
    objectives = ("xent", f"cat{HOSTILE}", "cat_dist")
    students = {}
    skill = {"xent": 0.0, "cat": 0.4, "cat_dist": 0.2}
    written = cascade_tables.experiment(root / "tables", objectives=skill, count=40)
    for name, (objective, seed) in written.items():
        students[name] = (next(o for o in objectives if o.startswith(objective)), seed)
    for split in ("validation", "test"):
        for model in ("teacher", *students):
            columns = {
                "ids": [str(i) for i in range(10)],
                "input": [HOSTILE] * 10,
                "target": [HOSTILE * 20] * 10,
                "prediction": [HOSTILE] * 10,
                "scores": [1.0] * 5 + [0.0] * 5,
                "token_entropies": [[1.0]] * 10,
                "logprobs": [[-float(i)] for i in range(10)],
            }
            cascade_tables.write(root / "tables", model, f"hostile/{HOSTILE}", split, **columns)
    results = cascade(
        tables_dir=root / "tables",
        large="teacher",
        students=students,
        tasks=[*cascade_tables.TASKS, f"hostile/{HOSTILE}"],
        output_dir=root / "out",
        rules=("chow_average", "entropy"),
        resamples=30,
        histories={name: cascade_tables.history(root / f"{name}.jsonl") for name in students},
        configs={HOSTILE: HOSTILE},
        title=f"Title {HOSTILE}",
    )
    return results, write_report(results, root / "out")


@pytest.fixture
def results(made):
    """The content of results.json; a copy, to be changed."""
    return json.loads(json.dumps(made[0]))


@pytest.fixture(scope="module")
def report(made):
    return made[1]


class Page(html.parser.HTMLParser):
    """Collects elements, and checks that every one is closed in turn."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.ids, self.rows = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if "table" in self.open and self.rows and self.rows[-1]:
            self.rows[-1][-1] += f" {data}"


@pytest.fixture(scope="module")
def page(report):
    parsed = Page()
    parsed.feed(report.report_path.read_text())
    assert parsed.open == []
    return parsed


def test_nothing_is_fetched_and_nothing_runs(report):
    for path in (report.report_path, report.picture_path):
        text = path.read_text()
        without = text.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?:|//[a-z]|url\(|@import|@font-face|javascript:", without)
        assert "<script" not in text
        assert not re.search(r"<(link|img|iframe|object|embed|base|form)\b", text)
        assert not re.search(r"\son[a-z]+=", text)


def test_hostile_text_is_shown_as_text(report, page):
    text = report.report_path.read_text()
    assert "alert(&#x27;1&#x27;)" in text
    assert "<script" not in text
    assert {"script", "object"}.isdisjoint({tag for tag, _ in page.seen})
    shown = " ".join(cell for row in page.rows for cell in row)
    assert HOSTILE in shown


def test_pictures_are_well_formed_xml(report):
    text = report.report_path.read_text()
    charts = re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL)
    assert len(charts) > 20
    for chart in charts:
        ElementTree.fromstring(chart)
    ElementTree.fromstring(report.picture_path.read_text())


def test_every_picture_is_described(report):
    text = report.report_path.read_text()
    for chart in re.findall(r"<svg xmlns.*?</svg>", text, flags=re.DOTALL):
        root = ElementTree.fromstring(chart)
        names = [child.tag.split("}")[1] for child in root][:2]
        assert names == ["title", "desc"]
        assert root.get("role") == "img"
        assert root[0].text
        assert root[1].text


def test_tables_have_headers_and_names(page):
    assert len(page.ids) == len(set(page.ids))
    tables = [attrs for tag, attrs in page.seen if tag == "table"]
    assert len(tables) >= 8
    assert all(attrs["aria-labelledby"] in page.ids for attrs in tables)
    heads = [attrs for tag, attrs in page.seen if tag == "th"]
    assert {attrs["scope"] for attrs in heads} == {"col", "row", "rowgroup"}
    links = [attrs["href"] for tag, attrs in page.seen if tag == "a"]
    assert {link.removeprefix("#") for link in links} <= set(page.ids)
    assert len(links) == 11


def test_light_dark_and_narrow_are_there(report):
    text = report.report_path.read_text()
    assert "@media (prefers-color-scheme:dark)" in text
    assert 'name="viewport" content="width=device-width,initial-scale=1"' in text
    assert text.count('<div class="wide">') == text.count('<div class="narrow">') == 3
    assert len(text) < 1_000_000


def cells_of(page, first):
    return next(row for row in page.rows if row and row[0].strip() == first)


def shown(value, digits=1):
    return f"{value:.{digits}f}".replace("-", "−")


def test_the_headline_table_shows_the_numbers_of_results_json(results, page):
    for objective in results["objectives"]:
        row = [cell.split() for cell in cells_of(page, objective)]
        found = results["summary"]["pooled"][objective]
        for cell, name in zip(row[1:4], ("small_quality", "auc_df", "quality_at_30"), strict=True):
            low, high = found[name]["interval"]
            assert cell == [shown(found[name]["mean"]), f"[{shown(low)},", f"{shown(high)}]"]
        assert row[5] == [shown(found["auc_df"]["spread"], 2)]
        kept = results["training"][objective]["kept_fraction"]["mean"]
        assert row[6] == [shown(100 * kept), "%"]
        if objective == "xent":
            assert row[4] == ["–"]
        else:
            gained = results["differences"]["pooled"][objective]["auc_df"]["mean"]
            assert row[4][0] == f"{gained:+.1f}".replace("-", "−")
    assert cells_of(page, "teacher")[1].split()[0] == shown(
        results["summary"]["pooled"]["xent"]["large_quality"]["mean"]
    )


def test_the_page_is_made_of_results_json_alone(results, report, tmp_path):
    again = write_report(results, tmp_path)
    assert again.table == report.table
    assert again.report_path.read_bytes() == report.report_path.read_bytes()
    assert again.picture_path.read_bytes() == report.picture_path.read_bytes()


def test_the_text_table_says_the_headline(results, report):
    lines = report.table.splitlines()
    assert lines[1].split("  ")[0] == "objective"
    assert [line.split()[0][:3] for line in lines[2:5]] == ["xen", "cat", "cat"]
    area = results["summary"]["pooled"]["cat_dist"]["auc_df"]
    assert f"{area['mean']:.1f} [{area['interval'][0]:.1f}, {area['interval'][1]:.1f}]" in lines[4]
    kept = results["training"]["cat_dist"]["kept_fraction"]["mean"]
    assert lines[4].endswith(f"{100 * kept:.1f} %")
    assert lines[6].startswith("cat_dist minus xent: AUC-DF ")


def test_without_resamples_the_page_says_so(tmp_path):
    students = cascade_tables.experiment(
        tmp_path / "tables", {"t": 0.0}, {"xent": 0.0, "cat": 0.1}, (0,), 30, ("test",)
    )
    arguments = {"large": "teacher", "students": students, "tasks": ["t"], "validation_split": None, "resamples": 0}
    results = cascade(tables_dir=tmp_path / "tables", output_dir=tmp_path / "out", **arguments)
    assert "No interval was computed." in render_report(results)


def test_statements_follow_the_numbers(results):
    found = results["differences"]["pooled"]["cat_dist"]["auc_df"]

    def verdict_of(low, high):
        found.update(mean=(low + high) / 2, interval=[low, high], nested=[low - 5, high + 5])
        text = html.unescape(re.sub(r"<[^>]+>", "", render_report(results)))
        return re.search(r"cat_dist minus xent: AUC-DF (.*?)\. (AUC-DF is .*?)\.", text)[2]

    assert verdict_of(1.0, 3.0) == "AUC-DF is above xent's"
    assert verdict_of(-3.0, -1.0) == "AUC-DF is below xent's"
    assert verdict_of(-1.0, 3.0) == "AUC-DF is not clearly different from xent's"
    found.update(mean=None, interval=None)
    assert "cat_dist minus xent: AUC-DF – points; " in objectives_table(results)
    assert "AUC-DF is not defined, for the metric has no value" in objectives_table(results)


def test_long_texts_are_cut(results):
    rows = [row for row in results["samples"]["rows"] if row["task"].startswith("hostile")]
    assert rows
    assert all(len(row["target"]) == 240 and row["target"].endswith("…") for row in rows)


def test_lines_stay_short(report):
    for chart in re.findall(r'<polyline[^>]*points="([^"]*)"', report.report_path.read_text()):
        assert len(chart.split()) <= 200


def test_many_objectives_still_look_different(tmp_path):
    objectives = dict.fromkeys(("xent", *(f"keep_{i}" for i in range(11))), 0.1)
    students = cascade_tables.experiment(tmp_path / "tables", {"t": 0.0}, objectives, (0,), 30, ("test",))
    results = cascade(
        tables_dir=tmp_path / "tables",
        large="teacher",
        students=students,
        tasks=["t"],
        output_dir=tmp_path / "out",
        validation_split=None,
        resamples=5,
    )
    legend = re.search(r'<ul class="legend">(.*?)</ul>', render_report(results))[1]
    looks = re.findall(r'<line class="line (\w+)"([^/]*?) x1.*?<(\w+) class="mark', legend)
    assert len(looks) == len(set(looks)) == 12


def test_a_large_model_that_is_no_better_is_told(results):
    def told():
        return [finding for finding in findings(results) if finding[0] == "teacher"]

    assert not told()
    best, found = next(iter(results["summary"][results["headline_scope"]].items()))
    for area, said in ((39.0, "gains them nothing on average"), (41.0, "err on different queries")):
        for name, value in (("small_quality", 40.0), ("large_quality", 40.0), ("auc_df", area)):
            found[name]["mean"] = value
        [(_, numbers, verdict)] = told()
        assert numbers == f"no better than the small models of {best}."
        assert said in verdict
        assert f"teacher: {numbers} {verdict}" in objectives_table(results)
    found["auc_df"]["mean"] = None
    [(_, _, verdict)] = told()
    assert "AUC-DF is not defined" in verdict
    found["small_quality"]["mean"] = None
    assert not told()


def test_a_metric_that_is_not_defined_is_drawn_as_nothing(results):
    """Null in results.json: here the small model's quality, the first half of every curve and of its difference from
    the baseline's, a lower bound by itself, and a step of training.
    """
    scope = results["headline_scope"]
    for found in results["summary"][scope].values():
        found["small_quality"] = {"mean": None, "interval": None, "nested": None, "seeds": []}
    for objective in results["objectives"]:
        curve = results["curves"][scope][objective]
        half_undefined(curve, ("quality", "low", "high", "random"))
        if curve["difference"] is not None:
            half_undefined(curve["difference"], ("quality", "low", "high"))
            curve["difference"]["low"][60] = curve["low"][80] = None
        results["training"][objective]["series"]["cells/both_right"][3] = None
    page = render_report(results)
    assert "None" not in re.sub(r"<[^>]*>", "", page)
    assert not re.search(r"\bnan\b", page)
    assert '"n best">–' not in page, "what is not defined is not the best"
    for path in re.findall(r'points="([^"]*)"', page):
        assert all(len(point.split(",")) == 2 for point in path.split())


def half_undefined(curve, names):
    for name in names:
        curve[name] = [None if k < len(curve[name]) // 2 else value for k, value in enumerate(curve[name])]


def test_a_gap_is_not_bridged():
    """Lines, bands and areas stop before what is not defined, and go on behind it."""
    y = [1.0, 2.0, None, 4.0, 5.0]
    series = Series("a", range(5), y, low=y, high=[9.0, None, None, 9.0, 9.0])
    axes = Axes("x", "y", str, str)
    shape = {"width": 400, "height": 300, "title": "t", "description": "d"}
    drawn = line_chart([series], axes, marks=4, **shape)
    assert [len(points.split()) for points in re.findall(r'polyline[^>]*points="([^"]*)"', drawn)] == [2, 2]
    assert [len(points.split()) for points in re.findall(r'polygon class="band[^>]*points="([^"]*)"', drawn)] == [2, 4]
    assert re.findall(r"<title>(a:.*?)</title>", drawn) == [
        "a: 1.0 [1.0, 9.0] at 0",
        "a: 2.0 at 1",
        "a: 4.0 [4.0, 9.0] at 3",
        "a: 5.0 [5.0, 9.0] at 4",
    ]
    layers = [("l", [0.5, None, 0.5, 0.5]), ("m", [0.5, 0.5, 0.5, 0.5])]
    areas = stacked_areas(range(4), layers, axes, **shape)
    assert [len(points.split()) for points in re.findall(r'polygon class="cell[^>]*points="([^"]*)"', areas)] == [
        *(2, 2),
        *(4, 4),
    ]
