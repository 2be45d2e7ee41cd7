"""The `openai` package against a MAVIS server: weights go into `extra_body`, what they did comes back in `mavis`.

python examples/openai_package.py [URL]        the server's address; http://127.0.0.1:8000 if not given
"""

import sys
from typing import Any

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
client = OpenAI(base_url=f"{url}/v1", api_key="none")
model = client.models.list().data[0].id

answer: Any = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "How was your day?"}],
    max_tokens=40,
    seed=1,
    extra_body={"objective_weights": {"positivity": 1.0, "simplicity": 0.5}, "return_values": True},
)
choice = answer.choices[0]
print(choice.message.content)
print(f"cost {choice.mavis['kl']:.2f} nats; did for each objective: {choice.mavis['values']}")
dearest = max(choice.mavis["tokens"], key=lambda token: token["kl"])
print(f"the token that was steered most cost {dearest['kl']:.2f} nats: {dearest['values']}")
