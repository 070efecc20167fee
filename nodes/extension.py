"""What ComfyUI is given: the list of nodes."""

from comfy_api.latest import ComfyExtension, io

from . import paths
from .compare_pictures import ComparePictures
from .compile_model import CompileModel
from .consolidate_attention import ConsolidateAttention
from .decode import Decode
from .edit_regions import EditRegions
from .empty_tokens import EmptyTokens
from .encode_instruction import EncodeInstruction
from .encode_tokens import EncodeTokens
from .errors import name_errors
from .list_of_values import ListOfValues
from .load import Load
from .load_folder import LoadFolder
from .load_lora import LoadLora
from .region_hold_sampler import RegionHoldSampler
from .toy_picture import ToyPicture


class EditMGTExtension(ComfyExtension):
    """All nodes, in the order in which a workflow uses them."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Called once at start-up; older versions of ComfyUI know no other hook."""
        paths.register()
        name_errors()
        return [
            Load,
            LoadLora,
            CompileModel,
            ToyPicture,
            EncodeTokens,
            EmptyTokens,
            EncodeInstruction,
            ConsolidateAttention,
            RegionHoldSampler,
            EditRegions,
            Decode,
            LoadFolder,
            ListOfValues,
            ComparePictures,
        ]
