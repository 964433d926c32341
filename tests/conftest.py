"""What all tests have in common."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile

from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, and nothing about what is tested.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# Tests run in several processes, whose servers must not meet in one state directory.
os.environ["EVERYWIRE_STATE_DIR"] = tempfile.mkdtemp(prefix="everywire-")
atexit.register(shutil.rmtree, os.environ["EVERYWIRE_STATE_DIR"], ignore_errors=True)

# Shells let what they start in the background ignore it, and so would each server and command started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
