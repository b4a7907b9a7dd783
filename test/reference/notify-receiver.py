"""A service manager's end of sd_notify: prints each datagram as a line of JSON, with the time since the one before, until it is killed.

Usage: notify-receiver.py ADDRESS [PAUSE_SECONDS]; an address that begins with @ is abstract. With a pause, nothing is read for so long.
"""
import json
import socket
import sys
import time

address = sys.argv[1]
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.bind("\0" + address[1:] if address.startswith("@") else address)
print(json.dumps({"listening": address}), flush=True)
time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 0)
before = time.monotonic()
while True:
    text = receiver.recv(65536).decode()
    now = time.monotonic()
    print(json.dumps({"text": text, "seconds": now - before}), flush=True)
    before = now
