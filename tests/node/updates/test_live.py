"""Updates in the thread that hears: what proves a release, and what does not."""

import threading
import time
from pathlib import Path

import pytest

from contract.errors import ReleaseError
from contract.messages import Update, UpdatePhase
from node.ear import Ear
from node.publisher import Answer
from node.runtime import find_runtime
from node.scorer import Scorer
from node.settings import load_settings
from node.site import known_machine
from node.site_store import SiteStore
from node.updates.live import LiveUpdates
from tests.contract.examples import BOOT
from tests.node.fake_source import FakeSource
from tests.node.updates.fake_broker import FakeBroker
from tests.shelf import keys_file, packed
from training.release import put_release

CONFIRM_WINDOWS = 4
