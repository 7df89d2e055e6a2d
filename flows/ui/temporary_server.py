"""The Prefect server of one run, as a script: ``temporary_server.py PORT``.

It ends when its standard input does, which is when the run's process has ended, however that happened.
"""

import os
import signal
import sys
import threading
import time

END_S = 5.0  # from the request to end to the kill


def main(port: int) -> None:
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(ephemeral=True, final=True), host="127.0.0.1", port=port, log_level="error")


def _end_with_the_run() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
