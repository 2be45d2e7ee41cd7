"""A reward model as a reward: one output of a sequence classifier from a hub or a folder."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from training.errors import RewardError
from valuemodels.sources.hub import resolve_folder

Output = Literal["logit", "probability"]
CHAT, PAIR = "chat", "pair"


class Classifier:
    """Scores prompt and reply by a model of `AutoModelForSequenceClassification`.

    Most public reward models have a single output, whose logit is the reward. Of a classifier of several classes, say
    which one counts. No remote code runs.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        template: str | None = None,
        index: int = 0,
        sign: Literal[1, -1] = 1,
        output: Output = "logit",
        batch_size: int = 16,
        max_length: int = 1024,
        head: str | None = None,
        without: str = "",
    ) -> None:
        """
        Args:
            model, revision: a folder or hub id.
            template: how prompt and reply become the model's input: "chat", by its chat template; "pair", as two
                texts; or a text with {prompt} and {reply} in it. None: "chat" where it has one, else "pair".
            index: which output; sign: -1 for a cost.
            output: the logit, or the probability among all classes (of one class: its sigmoid).
            max_length: tokens of an input; what is longer loses its beginning.
            head: what the model's file calls the layer that gives the outputs, where it is a decoder's and not `score`.
            without: an instruction at the beginning of prompts that the model is not to see.

        Raises:
            RewardError: the model cannot be loaded or does not fit the other arguments.
        """
        _check(sign in (1, -1), "sign", sign, "1 and -1")
        _check(output in ("logit", "probability"), "output", output, "logit and probability")
        self._tokenizer, self._model = _loaded(model, revision, head)
        outputs = self._model.config.num_labels
        _check(0 <= index < outputs, "index", index, f"0 to {outputs - 1}, of {model}")
        _check(batch_size > 0 and max_length > 0, "batch_size, max_length", (batch_size, max_length), "numbers above 0")
        self._template = self._checked_template(template)
        self._index, self._sign, self._output = index, sign, output
        self._batch_size, self._without = batch_size, without
        self._max_length = min(max_length, self._tokenizer.model_max_length)

    @staticmethod
    def depends_on(parameters: Mapping[str, Any]) -> list[Path]:
        """The model's folder."""
        return [Path(resolve_folder(parameters["model"], parameters.get("revision")))]

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """Scores, in batches of inputs of like length."""
        pairs = [(p.removeprefix(self._without), r) for p, r in zip(prompts, replies, strict=True)]
        if self._template == PAIR:
            return self._score(pairs)
        if self._template == CHAT:
            user, assistant = ({"role": role} for role in ("user", "assistant"))
            return self.score_chats([[user | {"content": p}, assistant | {"content": r}] for p, r in pairs])
        return self._score([(self._template.format(prompt=prompt, reply=reply),) for prompt, reply in pairs])

    def score_chats(self, chats: Sequence[Sequence[Mapping[str, str]]]) -> list[float]:
        """Scores of the last message of each chat, a list of chat messages; by the model's own chat template."""
        rendered = self._tokenizer.apply_chat_template(list(map(list, chats)), tokenize=False)
        return self._score([(text,) for text in rendered])

    def _score(self, inputs: Sequence[tuple[str, ...]]) -> list[float]:
        """Of each input, one text or two."""
        order = sorted(range(len(inputs)), key=lambda place: sum(map(len, inputs[place])))
        scores = [0.0] * len(inputs)
        for start in range(0, len(order), self._batch_size):
            places = order[start : start + self._batch_size]
            for place, value in zip(places, self._score_batch([inputs[place] for place in places]), strict=True):
                scores[place] = value
        return scores

    def _score_batch(self, inputs: Sequence[tuple[str, ...]]) -> list[float]:
        import torch

        tokens = self._tokenizer(
            *map(list, zip(*inputs, strict=True)),
            padding=True,
            truncation=True,
            max_length=self._max_length,
            add_special_tokens=self._template != CHAT,  # a chat template brings its own
            return_tensors="pt",
        ).to(self._model.device)
        with torch.inference_mode():
            logits = self._model(**tokens).logits.float()
        if self._output == "probability":
            logits = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(-1)
        found: list[float] = (self._sign * logits[:, self._index]).tolist()
        return found

    def _checked_template(self, template: str | None) -> str:
        has_chat = getattr(self._tokenizer, "chat_template", None) is not None
        if template is None:
            return CHAT if has_chat else PAIR
        _check(template != CHAT or has_chat, "template", template, "another: the tokenizer has no chat template")
        if template not in (CHAT, PAIR):
            try:
                rendered = template.format(prompt="\0p", reply="\0r")
            except (KeyError, IndexError, ValueError):
                rendered = ""
            is_whole = "\0p" in rendered and "\0r" in rendered
            _check(is_whole, "template", template, "chat, pair, or a text with {prompt} and {reply} in it")
        return template


def agree_on_padding(tokenizer: Any, config: Any) -> None:
    """A classifier reads its output after the last token that is no padding: both must mean the same by that."""
    known = (tokenizer.pad_token_id, config.pad_token_id, tokenizer.eos_token_id)
    config.pad_token_id = tokenizer.pad_token_id = next(token for token in known if token is not None)


def _loaded(name: str, revision: str | None, head: str | None) -> tuple[Any, Any]:
    """Tokenizer and model, on the machine's best device; a model with a layer that the file lacks would guess."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = resolve_folder(name, revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, truncation_side="left")
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            folder, key_mapping=head and {rf"^{re.escape(head)}\.": "score."}, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise RewardError(f"reward model {name} cannot be loaded: {error}") from None
    _check(not (missing := sorted(loading["missing_keys"])), "model", name, f"one with {', '.join(missing)}; see head")
    agree_on_padding(tokenizer, model.config)
    return tokenizer, model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _check(is_fine: bool, field: str, value: object, allowed: str) -> None:
    if not is_fine:
        raise RewardError(f"reward classifier: {field}: got {value!r}, allowed is {allowed}")
