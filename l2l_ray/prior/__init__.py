"""The frozen MLLM: how it is asked, how its replies are read and kept, and how they become soft proposals."""
