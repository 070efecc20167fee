"""Socket types. Payloads are plain dataclasses; all but the model are the library's."""

from comfy_api.latest import io

ModelSocket = io.Custom("EDITMGT_MODEL")  # networks.Model
TokensSocket = io.Custom("EDITMGT_TOKENS")  # editmgt_lib.Tokens
InstructionSocket = io.Custom("EDITMGT_INSTRUCTION")  # editmgt_lib.Instruction
LocalizationSocket = io.Custom("EDITMGT_LOCALIZATION")  # editmgt_lib.Localization

MODEL_TIP = "The checkpoint from Load EditMGT. Use the same one for all stages of an edit."
