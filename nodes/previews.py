"""What the nodes show: the token grid and the partial picture. Plain tensors and PIL."""

from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..editmgt_lib.models.vq import VQModel
from ..editmgt_lib.offload import execution_device
from ..editmgt_lib.pictures.canvas import Canvas
from ..editmgt_lib.pictures.compositing import project_mask
from ..editmgt_lib.pictures.drawing import enlarged

HELD = (0.20, 0.45, 0.95)  # blue: follows the source picture
MASKED = (1.00, 0.55, 0.10)  # orange: touched by the mask
GRID_SIDE = 512  # pixels of a token grid, about
FITTED, TILE = 256, 4  # codes whose colour is looked at, and tokens along a tile of one

_colours: WeakKeyDictionary[VQModel, Tensor] = WeakKeyDictionary()


def to_pil(picture: Tensor) -> Image.Image:
    """[H, W, 3] in 0..1 -> a PIL image."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def tinted(picture: Tensor, where: Tensor, colour: tuple[float, ...], share: float) -> Tensor:
    """Mix colours [..., 3] with one colour where a bool [...] is true."""
    mixed = torch.lerp(picture, picture.new_tensor(colour).expand_as(picture), share)
    return torch.where(where[..., None], mixed, picture)


def window(plane: Tensor, canvas: Canvas, item: int = 0) -> Tensor:
    """Crop a canvas plane [h, w, ...] to the picture, without its padding."""
    (top, left), (height, width) = canvas.placements[item].offset, canvas.placements[item].scaled
    return plane[top : top + height, left : left + width]


def code_colours(vq: VQModel) -> Tensor:
    """A colour for each code, [codes, 3]: an affine map of the code vectors.

    Fitted to what the decoder makes of small tiles of single codes, about one picture's worth, the
    first time a model is seen.
    """
    if vq not in _colours:
        codes = vq.config.num_vq_embeddings
        known = torch.linspace(0, codes - 1, min(FITTED, codes)).long()
        device = execution_device(vq)
        tiles = known.to(device)[:, None, None].expand(-1, TILE, TILE)
        with torch.inference_mode():
            seen = torch.cat([vq.decode(part).mean((2, 3)).cpu() for part in tiles.split(64)])
            vectors = vq.lookup(torch.arange(codes, device=device)[None, None])[0, :, 0].T
        vectors = F.pad(vectors.float().cpu(), (0, 1), value=1.0)
        fit = torch.linalg.lstsq(vectors[known], seen, driver="gelsd").solution
        _colours[vq] = vectors @ fit
    return _colours[vq]


def coloured(colours: Tensor, ids: Tensor, factor: int) -> Tensor:
    """Tokens [rows, cols] as smooth colour: [3, h, w]."""
    planes = colours[ids.cpu()].permute(2, 0, 1)[None]
    return F.interpolate(planes, scale_factor=factor, mode="bilinear")[0]


def partial_picture(pixels: Tensor, held: Tensor | None, pending: Tensor, canvas: Canvas) -> Tensor:
    """A run's state, [H, W, 3]: tokens still open are hatched, held ones tinted blue.

    pixels: [3, h, w] as now guessed; held, pending: bool [1, rows, cols].
    """
    picture = pixels.permute(1, 2, 0).clamp(0, 1)
    kept = held[0].cpu() if held is not None else torch.zeros_like(pending[0].cpu())
    picture = tinted(picture, enlarged(kept, canvas.factor), HELD, 0.35)
    open_ = enlarged(pending[0].cpu() & ~kept, canvas.factor)
    return window(tinted(picture, open_ & _stripes(canvas), (0.5, 0.5, 0.5), 0.65), canvas)


def _stripes(canvas: Canvas) -> Tensor:
    """Diagonal stripes over a canvas, four to a token: bool [h, w]."""
    rows, cols = (torch.arange(side) for side in canvas.size)
    wide = max(canvas.factor // 4, 2)
    return (rows[:, None] + cols[None]) // wide % 2 == 0


def token_grid(canvas: Canvas, mask: Tensor | None) -> Tensor:
    """Each picture as it lies on the canvas, with token cells: [B, h, w, 3].

    Padding is dark, cells that a mask [B or 1, H, W] touches are orange.
    """
    touched = torch.zeros(canvas.batch, canvas.rows, canvas.cols, dtype=torch.bool)
    if mask is not None:
        touched = project_mask(mask, canvas).cpu()
    cell, shown = max(GRID_SIDE // max(canvas.rows, canvas.cols), 4), []
    for item, where in enumerate(canvas.placements):
        colours = canvas.source[item, ..., :3].cpu().expand(-1, -1, 3)
        picture = where.place(colours, canvas.size)[0].clamp(0, 1)
        padding = torch.ones(1, *canvas.size)
        window(padding[0], canvas, item)[:] = 0
        *picture, padding = _at_cells(torch.cat([picture, padding]), canvas, cell)
        picture = tinted(torch.stack(picture, -1), padding > 0.5, (0.0, 0.0, 0.0), 0.6)
        picture = tinted(picture, enlarged(touched[item], cell), MASKED, 0.4)
        for lines in (picture[::cell], picture[:, ::cell]):
            dark = lines.mean(-1, keepdim=True) < 0.5
            lines.copy_(lines * 0.6 + dark * 0.4)
        shown.append(picture)
    return torch.stack(shown)


def _at_cells(planes: Tensor, canvas: Canvas, cell: int) -> Tensor:
    """Resize canvas planes [C, h, w] to `cell` pixels per token."""
    size = (canvas.rows * cell, canvas.cols * cell)
    mode = "nearest" if cell >= canvas.factor else "area"
    return F.interpolate(planes[None], size=size, mode=mode)[0]
