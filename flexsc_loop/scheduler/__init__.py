"""Floor 2: who serves a page, decided while it runs.  Loaded by loops that ask for it: README.md has the rules."""

NOTHING_COUNTED = dict.fromkeys(
    ("trials", "trials_won", "trials_lost", "trials_abandoned", "alarms_late", "alarms_run_delay", "alarms_throttled",
     "alarms_steal", "rests"), 0)  # fmt: skip
