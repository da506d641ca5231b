"""When a worker that ended is started again."""

from kdaemon.daemon.restarts import FIRST_WAIT_S, SOUND_NS, WAIT_S_MAX, Restarts


def test_who_cannot_run_waits_longer_each_time_and_is_not_given_up() -> None:
    restarts, now_ns, waits = Restarts(), 0, []
    for _ in range(12):
        restarts.began(now_ns)
        now_ns += 1_000_000_000
        waits.append(restarts.ended(now_ns))
    assert waits[:4] == [0.0, FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert waits[-1] == WAIT_S_MAX
    assert restarts.count == 12


def test_who_ran_for_a_while_is_started_at_once_again() -> None:
    restarts = Restarts()
    for began_ns in (0, 1, 2):
        restarts.began(began_ns)
        restarts.ended(began_ns)
    restarts.began(10)
    assert restarts.ended(10 + SOUND_NS) == 0.0
    restarts.began(10 + SOUND_NS)
    assert restarts.ended(11 + SOUND_NS) == 0.0, "the first early end after that, too"
    assert restarts.ended(12 + SOUND_NS) == FIRST_WAIT_S
