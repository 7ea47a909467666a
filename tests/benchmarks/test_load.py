from __future__ import annotations

import pytest

from benchmarks.load import LoadFailed, read_result


def output(requests: int, *, refused: int = 0, broken: int = 0) -> str:
    figures = f'"refused": {refused}, "broken": {broken}, "latency_p50_us": 1500, "latency_p99_us": 4000'
    return f'Running 5s test\nRESULT {{"requests": {requests}, "seconds": 5.0, {figures}}}\n'


def test_the_last_line_of_the_script_is_the_result() -> None:
    """wrk prints its own figures around it, rounded."""
    result = read_result(output(50_000))
    assert result.requests_per_second == 10_000
    assert (result.latency_p50_us, result.latency_p99_us) == (1500, 4000)


@pytest.mark.parametrize("text", [output(100, refused=1), output(100, broken=1), output(0), "unable to connect"])
def test_a_run_with_any_failure_measures_nothing(text: str) -> None:
    """A refusal costs less than an answer: a gateway that refuses would look fast."""
    with pytest.raises(LoadFailed):
        read_result(text)


def test_a_file_that_ran_out_is_told_with_its_mend() -> None:
    """Past its end the same nonces would come again."""
    with pytest.raises(LoadFailed, match="REQUESTS_PER_SECOND_MAX"):
        read_result(output(99_990), sent_max=99_990)
    assert read_result(output(99_990)).requests == 99_990
