"""A worker without torch: speaks the real protocol, and behaves as the candidate's file name says."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.measure.worker import serve


def answer(request: dict[str, Any]) -> Any:
    match request["do"]:
        case "hello":
            return {**request, "pid": os.getpid(), "variables": dict(os.environ)}
        case "time":
            misbehave(Path(request["candidate"]["path"]).stem)
            amount, seed = request["amount"], request["seed"] % 100
            pairs = amount["pairs"] - (1 if amount["until_steady"] else 0)  # the first process finds calls slow
            return {
                "reference": [100 + seed] * pairs,
                "candidate": [200 + seed] * pairs,
                "reference_first": [True] * pairs,
                "inputs": [0] * pairs,
                "warmup": amount["warmup"] - (1 if amount["until_steady"] else 0),
                "steady": True if amount["until_steady"] else None,
                "canary": [[1000 + seed] * 5] * 5,
                "collections": 0,
                "disturbance": {
                    "involuntary_switches": 3,
                    "steal": None,
                    "throttled_periods": 0,
                },
            }
        case "begin_turns":
            misbehave(Path(request["file"]["path"]).stem)
            return {"warmup": request["amount"]["warmup"], "steady": None, "call_time": 1e6}
        case "take_turn":
            return 200 if "present" in os.environ["PYTHONPATH"] else 100
        case "time_canary":
            return [1000] * 5
        case "end_turns":
            disturbance = {"involuntary_switches": 3, "steal": None, "throttled_periods": 0, "waiting": 0.5}
            return {"collections": 1, "disturbance": disturbance}
        case "code":
            return dict.fromkeys(request["names"], os.environ["PYTHONPATH"])
        case "time_single":
            misbehave(Path(request["file"]["path"]).stem)
            return [50 + request["warmup"]] * request["calls"]
        case "memory":
            return {"baseline": 1000, "loaded": 2000, "peak": os.getpid()}
        case "count":
            return 7
        case "run_in_forks":
            misbehave(Path(request["file"]["path"]).stem)
            return [1, 2]
        case "predict":
            import numpy as np  # here, for it would be most of this worker's start

            np.save(request["output"], np.load(request["inputs"]).sum(axis=(1, 2), keepdims=True)[:, :, 0])
    return None


def misbehave(how: str) -> None:
    match how:
        case "noisy":
            print("this must not be taken for an answer")
            os.system("echo nor this")
        case "hang":
            time.sleep(200)
        case "crash":
            print("about to crash", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(3)
        case "leave":
            sys.exit(3)
        case "refuse":
            raise StoreError("the file is damaged; build it again")
        case "bug":
            raise ZeroDivisionError("of the plugin")
        case "greedy":
            sys.stdin.read()


if __name__ == "__main__":
    serve(answer)
