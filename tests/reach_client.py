"""Keeps sending, as OpenAI's clients do: one connection pool, and 503 is tried again.

    reach_client.py STOP_FILE THREADS

Prints one JSON object at the end: how many requests were answered, by whom, and what was lost.
"""

from __future__ import annotations

import collections
import json
import os
import sys
import threading
import time
from pathlib import Path

import httpx

STOP, THREADS = Path(sys.argv[1]), int(sys.argv[2])
BASE, KEY = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
answered: collections.Counter[str] = collections.Counter()
refused: collections.Counter[str] = collections.Counter()
lost: list[str] = []


def send(client: httpx.Client, number: str) -> None:
    """One request until it is answered; anything but 200 and 503 is a loss."""
    sleep = 1.5 if number.endswith("7") else 0.05
    content = [{"type": "text", "text": f"sleep {sleep}"}]  # for the stand-in of vLLM
    body = {"said": number, "sleep": sleep, "messages": [{"role": "user", "content": content}]}
    for _ in range(20):
        try:
            answer = client.post(f"{BASE}/chat/completions", json=body, timeout=60)
        except httpx.HTTPError as error:
            lost.append(f"{number}: {error!r}")
            return
        if answer.status_code == 503:
            refused[answer.text[:60]] += 1
            time.sleep(float(answer.headers.get("Retry-After", "1")))
            continue
        said = answer.json() if answer.status_code == 200 else {}
        if not said or said.get("said", number) != number:
            lost.append(f"{number}: {answer.status_code} {answer.text[:80]}")
        else:
            answered[said.get("by", "somebody")] += 1
        return
    lost.append(f"{number}: refused to the end")


def keep_sending(thread: int) -> None:
    """Send until the file to stop is there."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(headers=headers, trust_env=False) as client:
        number = 0
        while not STOP.exists():
            number += 1
            send(client, f"{thread}-{number}")


threads = [threading.Thread(target=keep_sending, args=(i,)) for i in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"answered": answered, "refused": refused, "lost": lost}))
