"""A replacement for the foreign API: orders with idempotency keys, receipts without, and a rate limit.

    python foreign.py PORT INTERVAL

GET / returns the counts. Port 0 means a free port; the first line of output is the address.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT, INTERVAL = int(sys.argv[1]), float(sys.argv[2])

orders: dict[str, str] = {}
seen = {"calls": 0, "too soon": 0, "orders": 0, "receipts": 0}
last_call = -1e9


class Api(BaseHTTPRequestHandler):
    """The requests, in sequence."""

    def do_GET(self) -> None:
        """Return the counts so far."""
        self._answer(200, seen)

    def do_POST(self) -> None:
        """Accept an order or a receipt."""
        global last_call  # noqa: PLW0603 - the program is this one server
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        seen["calls"] += 1
        if time.monotonic() - last_call < INTERVAL:
            seen["too soon"] += 1
            self._answer(429, "too many requests")
            return
        last_call = time.monotonic()
        if self.path == "/orders":
            number = orders.setdefault(self.headers["Idempotency-Key"], f"order-{len(orders) + 1}")
            seen["orders"] = len(orders)
            self._answer(200, number)
        else:
            seen["receipts"] += 1
            self._answer(200, "sent")

    def _answer(self, status: int, body: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Print nothing; GET returns the counts."""


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", PORT), Api)
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()
