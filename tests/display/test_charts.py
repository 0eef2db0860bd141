"""Charts are well-formed SVG documents of the values."""

import math
import xml.etree.ElementTree as ET

import pytest

from lmrl.display.axes import Axis, axis_of, nice_ticks, tick_labels
from lmrl.display.charts import histogram, lines, scatter, stacked, whiskers

SVG = "{http://www.w3.org/2000/svg}"


def parsed(chart):
    return ET.fromstring(chart)


def tips(chart):
    return [hit.find(f"{SVG}title").text for hit in parsed(chart).iter(f"{SVG}g") if hit.get("class") == "hit"]


def texts(chart, kind=None):
    return [text.text for text in parsed(chart).iter(f"{SVG}text") if kind in (None, text.get("class"))]


def path_points(path):
    return [tuple(map(float, pair.strip("ML").split(","))) for pair in path.get("d").split()]


def path_points_of_area(path):
    return [tuple(map(float, pair.strip("MLZ").split(","))) for pair in path.get("d").split()]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 7, [-2, 0, 2, 4, 6]),
        (0.43, 0.71, [0.5, 0.6, 0.7]),
        (1234, 1240, [1234, 1236, 1238, 1240]),
        (0, 6e-5, [0, 2e-5, 4e-5, 6e-5]),
    ],
)
def test_ticks_are_round_numbers_between_the_ends(low, high, expected):
    assert nice_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ticks", "expected"),
    [
        ([0.0, 0.25, 0.5], ["0.00", "0.25", "0.50"]),
        ([0.0, 2.0, 4.0], ["0", "2", "4"]),
        ([0.0, 1000.0, 2000.0], ["0", "1,000", "2,000"]),
        ([0.0, 20000.0, 40000.0], ["0", "20k", "40k"]),
        ([0.0, 2.5e6, 5e6], ["0", "2.5M", "5M"]),
        ([0.0, 2e-5, 4e-5], ["0", "2e-05", "4e-05"]),
        ([2.8e-4, 3e-4, 3.2e-4], ["2.8e-04", "3e-04", "3.2e-04"]),
        ([9.5e-5, 1e-4, 1.05e-4, 1.1e-4], ["9.5e-05", "1e-04", "1.05e-04", "1.1e-04"]),  # of a constant rate of 1e-4
        ([123456.0, 123456.5, 123457.0], ["123.456k", "123.4565k", "123.457k"]),
    ],
)
def test_tick_labels_have_the_decimals_of_their_step(ticks, expected):
    assert tick_labels(ticks) == expected


def test_an_axis_is_linear_and_has_room_for_a_constant():
    axis = Axis(10, 20, 100, 200)
    assert (axis(10), axis(15), axis(20)) == (100, 150, 200)
    constant = axis_of([0.3, 0.3], 0, 100)
    assert constant.low < 0.3 < constant.high
    assert axis_of([0.0], 0, 100) == Axis(0.0, 1.0, 0, 100)
    assert axis_of([math.nan, math.inf], 0, 100) == Axis(0.0, 1.0, 0, 100)


def test_a_line_goes_through_its_values():
    chart = lines({"reward": [(0, 0.0), (50, 1.0), (100, 0.5)]}, title="Reward")
    (path,) = parsed(chart).iter(f"{SVG}path")
    (x0, y0), (x1, y1), (x2, y2) = path_points(path)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y2 == pytest.approx((y0 - y1) / 2, abs=0.2)  # pixels count downwards
    assert tips(chart) == ["step 0\nreward: 0.00", "step 50\nreward: 1.00", "step 100\nreward: 0.5000"]
    assert parsed(chart).find(f"{SVG}title").text == "Reward"
    assert parsed(chart).find(f"{SVG}desc").text == "reward: from 0.00 to 0.5000"
    assert {"0", "100", "0.00", "1.00"} <= set(texts(chart, "tick"))


def test_a_value_that_is_not_finite_breaks_the_line():
    chart = lines({"kl": [(1, 1.0), (2, 2.0), (3, math.nan), (4, 3.0), (5, 4.0)]}, title="KL")
    (path,) = parsed(chart).iter(f"{SVG}path")
    assert path.get("d").count("M") == 2 and "nan" not in chart
    assert len(tips(chart)) == 4


def test_a_moving_average_is_drawn_over_the_values():
    points = [(float(step), float(step % 2)) for step in range(20)]
    raw, average = parsed(lines({"kl": points}, title="KL", smooth=True)).iter(f"{SVG}path")
    assert (raw.get("class"), average.get("class")) == ("s0 raw", "s0 smooth")
    heights = [y for _, y in path_points(average)][5:]
    assert max(heights) - min(heights) < max(y for _, y in path_points(raw)) - min(y for _, y in path_points(raw))
    (alone,) = parsed(lines({"kl": points[:19]}, title="KL", smooth=True)).iter(f"{SVG}path")
    assert alone.get("class") == "s0"  # too few for an average


def test_shares_are_stacked_up_to_100_percent():
    chart = stacked({"generation": [(1, 25.0), (2, 50.0)], "update": [(1, 75.0), (2, 50.0)]}, title="Time")
    below, above = parsed(chart).iter(f"{SVG}path")
    (x1, y1), (x2, y2), (_, floor), _ = path_points_of_area(below)
    top = path_points_of_area(above)[0][1]
    assert floor - y1 == pytest.approx((floor - top) / 4, abs=0.1)
    assert floor - y2 == pytest.approx((floor - top) / 2, abs=0.1) and x2 > x1
    assert tips(chart) == ["step 1\ngeneration: 25.00\nupdate: 75.00", "step 2\ngeneration: 50.00\nupdate: 50.00"]
    assert parsed(chart).find(f"{SVG}desc").text == "generation: mean 37.5 %. update: mean 62.5 %"


def test_an_empty_series_keeps_its_colour_from_the_others():
    chart = lines({"a": [], "b": [(1, 1.0), (2, 2.0)]}, title="t")
    (path,) = parsed(chart).iter(f"{SVG}path")
    assert path.get("class") == "s1" and "a" not in texts(chart)


def test_a_scatter_labels_its_points():
    chart = scatter(
        {"sft": (0.0, 0.4), "rl": (4.0, 0.7), "broken": (math.nan, 1.0)}, title="t", x_label="KL", y_label="reward"
    )
    dots = [dot for dot in parsed(chart).iter(f"{SVG}circle") if dot.get("class").startswith("dot")]
    assert [dot.get("class") for dot in dots] == ["dot s0", "dot s1"]
    assert float(dots[0].get("cx")) < float(dots[1].get("cx")) and float(dots[0].get("cy")) > float(dots[1].get("cy"))
    assert tips(chart) == ["sft: 0.00, 0.4000", "rl: 4.00, 0.7000"]
    assert {"KL", "reward", "sft", "rl"} <= set(texts(chart)) and "broken" not in texts(chart)


def test_a_trail_has_a_line_and_a_dot_for_each_of_its_points():
    chart = scatter({}, title="t", x_label="KL", y_label="r", trails={"run": [(0, 0.1), (1, 0.2), (2, 0.3)]})
    (path,) = parsed(chart).iter(f"{SVG}path")
    assert len(path_points(path)) == 3
    assert tips(chart)[1] == "run, point 2: 1.00, 0.2000"


def test_a_histogram_shows_shares_in_common_bins():
    chart = histogram({"before": [1.0, 1.0, 2.0, 4.0], "after": [4.0, 4.0]}, title="Length", x_label="tokens")
    assert tips(chart) == [
        "1.00 to 2.00\nbefore: 50.0 %\nafter: 0.0 %",
        "2.00 to 3.00\nbefore: 25.0 %\nafter: 0.0 %",
        "3.00 to 4.00\nbefore: 0.0 %\nafter: 0.0 %",
        "4.00 to 5.00\nbefore: 25.0 %\nafter: 100.0 %",
    ]
    assert parsed(chart).find(f"{SVG}desc").text == "before: mean 2.00 of 4. after: mean 4.00 of 2"


def test_the_largest_value_closes_the_last_bin():
    chart = histogram({"a": [0.0, 0.5, 1.0, 1.0]}, title="t", x_label="reward", bins=2)
    assert tips(chart) == ["0.00 to 0.5000\na: 25.0 %", "0.5000 to 1.00\na: 75.0 %"]


def test_a_histogram_of_two_bins_may_have_a_single_round_number_inside():
    chart = histogram({"a": [0.3, 1.35]}, title="t", x_label="reward", bins=2)
    assert tips(chart) == ["0.00 to 1.00\na: 50.0 %", "1.00 to 2.00\na: 50.0 %"]


def test_an_interval_is_drawn_from_end_to_end_beside_the_line_at_0():
    chart = whiskers({"bleu": {"rl": (2.0, 1.0, 3.0)}, "chrf": {"rl": (0.0, -1.0, 1.0)}}, title="t", x_label="%")
    bars = [line for line in parsed(chart).iter(f"{SVG}line") if line.get("stroke-width") == "2"]
    widths = [float(bar.get("x2")) - float(bar.get("x1")) for bar in bars]
    assert widths[0] == pytest.approx(widths[1], abs=0.2) and widths[0] > 0
    dots = list(parsed(chart).iter(f"{SVG}circle"))
    zero = float(dots[1].get("cx"))
    (line,) = [line for line in parsed(chart).iter(f"{SVG}line") if line.get("x1") == line.get("x2") == str(zero)][:1]
    assert float(line.get("y1")) < float(line.get("y2"))
    assert float(bars[0].get("x1")) == pytest.approx(zero + widths[0] / 2, abs=0.2)
    assert parsed(chart).find(f"{SVG}desc").text == "bleu: +2.00 [+1.00, +3.00]. chrf: +0.00 [-1.00, +1.00]"


def test_a_long_name_of_a_row_leaves_room_for_its_interval():
    chart = whiskers({f"reward/{'x' * 80}": {"rl": (5.0, 1.0, 9.0)}}, title="t", x_label="%")
    (bar,) = [line for line in parsed(chart).iter(f"{SVG}line") if line.get("stroke-width") == "2"]
    assert float(bar.get("x2")) - float(bar.get("x1")) > 100  # it would run to the left, where the name fills all
    assert f">reward/{'x' * 24}…<" in chart


def legend_of(chart):
    """Returns height and text of each line of a legend, the top of the chart, and the height of its title."""
    found = [text for text in parsed(chart).iter(f"{SVG}text") if list(text)]
    title = next(text for text in parsed(chart).iter(f"{SVG}text") if text.get("class") == "name")
    top = float(parsed(chart).get("viewBox").split()[1])
    return [(float(text.get("y")), "".join(text.itertext())) for text in found], top, float(title.get("y"))


def test_a_legend_of_short_names_is_one_line():
    points = [(0, 0.0), (1, 1.0)]
    assert legend_of(lines({"before": points, "after": points}, title="t")) == ([(37, "■ before\u2003■ after")], 0, 18)
    assert legend_of(lines({"alone": points}, title="t")) == ([], 0, 18)


def test_a_legend_of_long_names_has_a_line_for_each_with_both_of_its_ends():
    points = [(0, 0.0), (1, 1.0)]
    names = [f"runs/ppo_lr3e-4_beta0.05_critic_shared_seed{seed}" for seed in range(3)]
    drawn, top, title = legend_of(lines(dict.fromkeys(names, points), title="t"))
    assert drawn == [(7, f"■ {names[0]}"), (22, f"■ {names[1]}"), (37, f"■ {names[2]}")]
    assert (top, title) == (-30, -12)
    # 424 pixels are 60 letters of 7 pixels: a longer name keeps its beginning and its end.
    longer = [f"{'a' * 50}{'b' * 50}{number}" for number in (1, 2)]
    drawn, _, _ = legend_of(lines(dict.fromkeys(longer, points), title="t"))
    assert [text for _, text in drawn] == [f"■ {'a' * 27}…{'b' * 27}{number}" for number in (1, 2)]
    # The name of the axis stands at the height of a legend of one line: this one is above it.
    drawn, top, _ = legend_of(stacked(dict.fromkeys(names, points), title="t"))
    assert ([height for height, _ in drawn], top) == ([-8, 7, 22], -45)


@pytest.mark.parametrize(
    "chart",
    [
        lines({}, title="t"),
        lines({"a": []}, title="t"),
        lines({"a": [(1, math.nan)]}, title="t"),
        lines({"a": [(1, 5.0)]}, title="t"),
        lines({"a": [(1, 1e300), (2, -1e300)]}, title="t"),
        lines({"a": [(1, math.nan)] * 30}, title="t", smooth=True),
        stacked({"a": [(1, 100.0)], "b": [(1, 0.0)]}, title="t"),
        scatter({}, title="t", x_label="x", y_label="y"),
        scatter({"a": (1.0, 1.0)}, title="t", x_label="x", y_label="y"),
        histogram({}, title="t", x_label="x"),
        histogram({"a": [], "b": [math.nan]}, title="t", x_label="x"),
        histogram({"a": [0.25]}, title="t", x_label="x"),
        histogram({"a": [1e9, 1e9 + 1]}, title="t", x_label="x"),
        whiskers({}, title="t", x_label="x"),
        whiskers({"a": {"b": (0.0, 0.0, 0.0)}}, title="t", x_label="x"),
    ],
)
def test_a_chart_can_have_few_values_or_none(chart):
    parsed(chart)
    assert "nan" not in chart and "inf" not in chart


def test_markup_in_labels_is_escaped():
    evil = '<script>alert("&")</script>'
    charts = [
        lines({evil: [(0, 0.0), (1, 1.0)], "b": [(0, 1.0)]}, title=evil),
        scatter({evil: (0.0, 1.0)}, title=evil, x_label=evil, y_label=evil, trails={evil: [(0, 1), (1, 2)]}),
        histogram({evil: [1.0], "b": [2.0]}, title=evil, x_label=evil),
        whiskers({evil: {evil: (1.0, 0.0, 2.0)}}, title=evil, x_label=evil),
    ]
    for chart in charts:
        assert "<script" not in chart and parsed(chart).find(f"{SVG}title").text == evil
