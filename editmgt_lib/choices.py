"""What the options with a fixed set of choices accept. The first is the library's default.

Library, command line and nodes read these; nothing is imported, so that help stays instant.
"""

DTYPES = ("auto", "float32", "bfloat16", "float16")
PACKED_DTYPES = ("bf16", "fp8", "fp32", "fp16", "keep")
ATTENTIONS = ("auto", "sdpa", "flash", "xformers", "math")
OFFLOAD = ("none", "stages", "layers")

FITS = ("pad", "native", "crop")

FILTERS = ("adaptive", "gaussian", "none")
ROWS = ("all", "content")
UPDATES = ("step", "once")
STATES = ("masked", "source")

SCHEDULES = ("cosine", "linear")
HOLD_RULES = ("proposal", "restore")
COMBINATIONS = ("intersection", "union")
DRAWS = ("inverse", "race")
REUSES = ("none", "reference", "known")

MASK_LAWS = ("cos", "linear", "exp")
NORMALIZATIONS = ("token", "sample")
TIMES = ("step", "ratio")
