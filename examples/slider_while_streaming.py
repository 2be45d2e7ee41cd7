"""A slider moved while the text streams: warm words first, cold ones from then on.

pip install ./client
python examples/slider_while_streaming.py [URL]        the server's address; http://127.0.0.1:8000 if not given
"""

import sys

from mavis_client import MavisClient

MOVED_AFTER, TOKENS = 24, 160

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
with (
    MavisClient(url) as client,
    client.chat_stream(
        "Tell me about your neighbours.", objective_weights={"positivity": 1.0}, max_tokens=TOKENS, seed=3
    ) as stream,
):
    for number, chunk in enumerate(stream):
        print(chunk.text, end="", flush=True)
        if number == MOVED_AFTER:
            change = stream.set_weights({"positivity": -1.0})
            print(f" [-1 from token {change.effective_from_token}] ", end="", flush=True)
    whole = stream.completion()

block = whole.choices[0].mavis
print()
for entry in block.steering if block is not None else ():
    print(f"from token {entry.from_token}: {entry.objective_weights}")
