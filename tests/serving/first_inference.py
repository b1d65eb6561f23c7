"""Processes in which two threads run OpenVINO for the first time at the same moment. Arguments: how many processes.

Writes how many of them did not end. Without the engine's own precaution, two in three don't.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import numpy as np
import openvino as _openvino
import openvino.opset13 as _ops

from embedfit.models.graphs.encoder import Untyped, openvino_compiled

openvino: Untyped = _openvino
ops: Untyped = _ops
_SECONDS = 20.0


def infer_at_once() -> None:
    """In a process of its own."""
    sys.setswitchinterval(1e-6)  # threads take turns as often as possible
    numbers = ops.parameter([-1], np.float32, name="numbers")
    compiled = openvino_compiled(openvino.Model([ops.relu(numbers)], [numbers]), NUM_STREAMS=2)
    requests = [compiled.create_infer_request() for _ in range(2)]
    together = threading.Barrier(2)

    def run(request: Untyped) -> None:
        together.wait()
        request.infer({0: np.ones(4, np.float32)}, share_inputs=True, share_outputs=True)

    threads = [threading.Thread(target=run, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def ends() -> bool:
    """Whether a new process ends, without an error and in time."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            infer_at_once()
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        ended, how = os.waitpid(child, os.WNOHANG)
        if ended:
            return how == 0
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


if __name__ == "__main__":
    sys.stdout.write(f"{sum(not ends() for _ in range(int(sys.argv[1])))}\n")
