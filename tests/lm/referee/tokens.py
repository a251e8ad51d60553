"""Ids by Meta's tokenizer and chat format: `python tokens.py FOLDER`, which holds job.json and gets tokens.json.

The job: `texts`, to be encoded as plain text; `conversations`, lists of [role, content]. The result: `model`, where the
`tokenizer.model` lies; `special`; `stop`; `texts` and `conversations` as ids.
"""
# pyright: reportMissingImports=false

import json
import sys
from pathlib import Path

from llama_models.datatypes import RawMessage
from llama_models.llama3 import tokenizer as meta
from llama_models.llama3.chat_format import ChatFormat

ROLES = {"ipython": "tool"}


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    tokenizer = meta.Tokenizer.get_instance()
    chat = ChatFormat(tokenizer)
    conversations = [
        [RawMessage(role=ROLES.get(role, role), content=content) for role, content in conversation]
        for conversation in job["conversations"]
    ]
    result = {
        "model": str(Path(meta.__file__).with_name("tokenizer.model")),
        "special": tokenizer.special_tokens,
        "stop": tokenizer.stop_tokens,
        "texts": [tokenizer.encode(text, bos=False, eos=False) for text in job["texts"]],
        "conversations": [chat.encode_dialog_prompt(messages).tokens for messages in conversations],
    }
    (folder / "tokens.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
