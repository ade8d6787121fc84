"""Start `transformers serve` on a Qwen3-VL checkpoint where torchvision is missing: its processor is put together here.

Usage: python tests/prior/serve_embedded.py FOLDER PORT
"""

import sys
from pathlib import Path

from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen3VLProcessor
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.transformers import main


def processor(_: ModelManager, folder: str, gguf_file: str | None = None) -> Qwen3VLProcessor:
    place = Path(folder.split("@")[0])
    tokenizer = AutoTokenizer.from_pretrained(place)
    images = Qwen2VLImageProcessorPil.from_pretrained(place)
    found = Qwen3VLProcessor.__new__(Qwen3VLProcessor)
    Qwen3VLProcessor.check_argument_for_proper_class = lambda *_: None
    found.__init__(images, tokenizer, None, chat_template=tokenizer.chat_template)
    return found


if __name__ == "__main__":
    ModelManager._load_processor = processor
    place, port = sys.argv[1:]
    sys.argv = ["transformers", "serve", place, "--host", "127.0.0.1", "--port", port, "--device", "cpu"]
    main()
