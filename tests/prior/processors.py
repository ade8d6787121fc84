"""Image processors of full-size models, with the limits that stand in their checkpoints' preprocessor_config.json."""

from __future__ import annotations

from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

# Qwen2.5-VL-7B-Instruct, Qwen3-VL-8B-Instruct, GLM-4.1V-9B-Thinking
PROCESSORS = {
    "qwen2_5_vl": lambda: Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 12845056}),
    "qwen3_vl": lambda: Qwen2VLImageProcessorPil(
        patch_size=16, size={"shortest_edge": 65536, "longest_edge": 16777216}
    ),
    "glm4v": lambda: Glm4vImageProcessorPil(size={"shortest_edge": 12544, "longest_edge": 9633792}),
}
