# %% exercise-1 answer
import itertools


def decide(failures, rule):
    if sum(failures[-1] - time <= rule.within for time in failures) > rule.max_restarts:
        return None
    delay = 0.0
    for before, after in itertools.pairwise(failures):
        was_quiet = after - before > rule.within
        delay = 0.0 if was_quiet else min(max(rule.min_backoff, 2 * delay), rule.max_backoff)
    return delay


# %% exercise-1 wrong: old failures drop out of the window
def decide(failures, rule):
    if len(failures) > rule.max_restarts:
        return None
    return 0.0


# %% exercise-1 wrong: still counts
def decide(failures, rule):
    count = sum(failures[-1] - time < rule.within for time in failures)
    if count > rule.max_restarts:
        return None
    return 0.0 if count == 1 else min(rule.min_backoff * 2 ** (len(failures) - 2), rule.max_backoff)


# %% exercise-1 wrong: it begins anew
def decide(failures, rule):
    count = sum(failures[-1] - time <= rule.within for time in failures)
    if count > rule.max_restarts:
        return None
    return 0.0 if len(failures) == 1 else min(rule.min_backoff * 2 ** (len(failures) - 2), rule.max_backoff)


# %% exercise-1 wrong: none of these came after a quiet time
def decide(failures, rule):
    count = sum(failures[-1] - time <= rule.within for time in failures)
    if count > rule.max_restarts:
        return None
    return 0.0 if count == 1 else min(rule.min_backoff * 2 ** (count - 2), rule.max_backoff)


# %% exercise-1 wrong: it should return seconds to wait
def decide(failures, rule):
    count = sum(failures[-1] - time <= rule.within for time in failures)
    return "give up" if count > rule.max_restarts else 0.0


# %% exercise-2 answer
patient = Restart(max_restarts=20, within=3600, min_backoff=1, max_backoff=10)

# %% exercise-2 wrong: it never gives up
patient = Restart(max_restarts=100_000, within=3600, min_backoff=5, max_backoff=10)

# %% exercise-2 wrong: `within` is so short
patient = Restart(max_restarts=3, within=5, min_backoff=8, max_backoff=10)

# %% exercise-2 wrong: wait longer between them
patient = Restart(max_restarts=400, within=3600, min_backoff=0.1, max_backoff=0.2)

# %% exercise-2 wrong: max_backoff is too long
patient = Restart(max_restarts=20, within=36000, min_backoff=1.5, max_backoff=120)

# %% exercise-2 wrong: should be a rule
patient = 20

# %% exercise-2 wrong: before the two minutes are over
patient = Restart(within=60)
