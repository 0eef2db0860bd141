"""The scales of a sweep's picture."""

from lmrl.evaluation.reporting.axes import LogAxis, NamedAxis


def test_a_logarithmic_scale_gives_each_power_of_ten_the_same_room() -> None:
    axis = LogAxis(1e-5, 1e-3, 100.0, 300.0)
    assert [axis(value) for value in (1e-5, 1e-4, 1e-3)] == [100.0, 200.0, 300.0]
    assert axis.labels == ["1e-05", "0.0001", "0.001"]
    assert LogAxis(0.003, 0.3, 0.0, 1.0).labels == ["0.003", "0.01", "0.03", "0.1", "0.3"]
    assert LogAxis(2.0, 9.0, 0.0, 1.0).ticks == [2.0, 5.0]


def test_names_stand_side_by_side_and_are_cut_where_they_would_meet() -> None:
    axis = NamedAxis(-0.5, 1.5, 0.0, 140.0, ("shared", "a separate critic"))
    assert [axis(tick) for tick in axis.ticks] == [35.0, 105.0]
    assert axis.labels == ["shared", "a separat…"]
