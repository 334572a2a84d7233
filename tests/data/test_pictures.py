"""Pictures of every size and mode as one array."""

import numpy as np
import pytest

from funcnet.data import DataFormatError
from funcnet.data._pictures import in_file, read_pictures

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: the extra data has it")

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def read(folder, pictures, **options):
    """What becomes of pictures, saved under their names; pairs have options of saving."""
    files = []
    for name, picture in pictures.items():
        picture, how = picture if isinstance(picture, tuple) else (picture, {})
        picture.save(folder / name, **how)
        files.append(in_file(folder / name))
    return read_pictures(files, **options)


def test_pictures_of_one_size_are_read_as_they_are(tmp_path):
    pictures = {f"{end}.{end}": Image.fromarray(RGB) for end in ("png", "bmp", "tiff")}
    pictures["webp.webp"] = Image.fromarray(RGB), {"lossless": True}
    images, size, mode = read(tmp_path, pictures)
    assert (images.dtype, size, mode) == (np.uint8, (6, 8), "RGB")
    for image in images:
        np.testing.assert_array_equal(image, RGB)


def test_jpeg_is_read_nearly(tmp_path):
    smooth = np.broadcast_to(np.linspace(50, 200, 64)[None, :, None], (48, 64, 3)).astype(np.uint8)
    images, size, _ = read(tmp_path, {"a.jpg": (Image.fromarray(smooth), {"quality": 95})})
    assert size == (48, 64)
    assert np.abs(images[0].astype(int) - smooth).max() <= 3


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ("L L", "L"),
        ("L 1 LA", "L"),
        ("L I;16", "L"),
        ("I;16 I;16", "I;16"),
        ("L RGB", "RGB"),
        ("I;16 P", "RGB"),
        ("RGBA L", "RGB"),
    ],
)
def test_the_mode_is_grey_where_all_are_grey(modes, expected, tmp_path):
    def picture(mode):
        if mode == "I;16":
            return Image.fromarray(GREY.astype(np.uint16) * 257)
        return Image.fromarray(GREY).convert(mode)

    pictures = {f"{i}.png": picture(mode) for i, mode in enumerate(modes.split())}
    images, _, mode = read(tmp_path, pictures)
    assert mode == expected
    for image, came in zip(images, modes.split(), strict=True):
        if came not in "1P":
            scaled = GREY.astype(np.uint16) * 257 if mode == "I;16" else GREY
            np.testing.assert_array_equal(image, np.broadcast_to(scaled[..., None], image.shape))


def test_a_palette_becomes_its_colours(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 0, 255])
    images, *_ = read(tmp_path, {"a.png": picture, "b.gif": picture})
    for image in images:
        np.testing.assert_array_equal(image, [[[255, 0, 0], [0, 0, 255]]])


@pytest.mark.parametrize("how", ["RGBA", "LA", "P", "tRNS"])
def test_what_is_transparent_is_white(how, tmp_path):
    clear, black = (0, 0, 0, 0), (0, 0, 0, 255)
    picture, options = Image.new("RGBA", (2, 1), black), {}
    picture.putpixel((1, 0), clear)
    if how == "LA":
        picture = picture.convert("LA")
    elif how == "P":
        picture = Image.new("P", (2, 1))
        picture.putpalette([0, 0, 0, 9, 9, 9])
        picture.putpixel((1, 0), 1)
        options = {"transparency": 1}
    elif how == "tRNS":
        picture = Image.new("L", (2, 1))
        picture.putpixel((1, 0), 7)
        options = {"transparency": 7}
    for mode in ("L", "RGB"):
        images, *_ = read(tmp_path, {"a.png": (picture, options)}, mode=mode)
        assert images[0, 0, :, 0].tolist() == [0, 255]


def test_half_transparent_is_half_white(tmp_path):
    images, *_ = read(tmp_path, {"a.png": Image.new("RGBA", (1, 1), (200, 0, 100, 128))})
    np.testing.assert_allclose(images[0, 0, 0], [227, 127, 177], atol=1)


def test_cmyk_becomes_rgb(tmp_path):
    picture = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    images, *_ = read(tmp_path, {"a.jpg": (picture, {"quality": 95}), "b.tiff": picture})
    for image in images:
        np.testing.assert_allclose(image[4, 4], [255, 0, 0], atol=6)


def test_grey_of_16_bits_is_kept_alone_and_scaled_among_others(tmp_path):
    wide = np.array([[0, 1, 300, 65535]], np.uint16)
    picture = Image.fromarray(wide)
    images, *_ = read(tmp_path, {"a.png": picture, "b.tiff": picture})
    assert images.dtype == np.uint16
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0][..., 0], wide)
    images, *_ = read(tmp_path, {"a.png": picture}, mode="L")
    assert images[0, 0, :, 0].tolist() == [0, 0, 1, 255]
    images, *_ = read(tmp_path, {"b.png": Image.fromarray(GREY)}, mode="I;16")
    np.testing.assert_array_equal(images[0][..., 0], GREY.astype(np.uint16) * 257)
    ramp = np.broadcast_to(np.arange(8, dtype=np.uint16) * 8000, (4, 8))
    images, *_ = read(tmp_path, {"c.png": Image.fromarray(ramp)}, size=(2, 4))
    np.testing.assert_allclose(images[0, 0, 1:3, 0], [20000, 36000], rtol=0.01)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("end", ["png", "jpg", "webp"])
def test_pictures_are_turned_as_their_exif_says(orientation, end, tmp_path):
    shown = np.zeros((16, 32), np.uint8)
    shown[:8, :8] = 255  # a white corner, at the upper left
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.T,
        6: np.rot90(shown),
        7: shown[::-1, ::-1].T,
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored)).convert("RGB")
    images, size, _ = read(tmp_path, {f"a.{end}": (picture, {"exif": exif.tobytes()})})
    assert size == (16, 32)
    np.testing.assert_allclose(images[0, ..., 0].astype(int), shown, atol=60 if end != "png" else 0)


def test_another_size_is_covered_and_its_middle_kept(tmp_path):
    tall = np.zeros((40, 10, 3), np.uint8)
    tall[14:26] = 200  # antialiasing looks a pixel further than the middle
    images, *_ = read(tmp_path, {"a.png": Image.fromarray(tall)}, size=5)
    np.testing.assert_array_equal(images[0], np.full((5, 5, 3), 200))
    board = np.indices((64, 64)).sum(0) % 2 * 255  # antialiasing: its mean, and no pattern
    images, *_ = read(tmp_path, {"b.png": Image.fromarray(board.astype(np.uint8))}, size=(8, 8))
    np.testing.assert_allclose(images[0], 127.5, atol=8)


def test_the_size_is_the_median_where_sizes_differ(tmp_path):
    pictures = {f"{w}.png": Image.new("L", (w, h)) for w, h in ((4, 10), (5, 20), (60, 6))}
    images, size, _ = read(tmp_path, pictures)
    assert size == (10, 5)
    assert images.shape == (3, 10, 5, 1)


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    images, *_ = read(
        tmp_path, {"a.gif": (frames[0], {"save_all": True, "append_images": frames[1:]})}
    )
    assert images[0, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("keep", [0, 10, 40, 600])
@pytest.mark.parametrize("end", ["png", "jpg", "gif", "webp", "bmp", "tiff"])
def test_a_damaged_picture_is_named(end, keep, tmp_path):
    path = tmp_path / f"a.{end}"
    noise = RNG.integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataFormatError, match=rf"a\.{end}: no picture can be read from it \(.+\)"):
        read_pictures([in_file(path)])


def test_what_is_no_picture_is_refused_whatever_its_name(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path, format="EPS")  # which would start Ghostscript
    with pytest.raises(DataFormatError, match=r"a\.png: no picture"):
        read_pictures([in_file(path)])
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataFormatError, match="32 bits: pass it to from_arrays"):
        read_pictures([in_file(tmp_path / "a.tiff")])


@pytest.mark.parametrize("limit", [40, 60])  # beyond twice the limit, and beyond it
def test_a_picture_of_too_many_pixels_is_refused(limit, tmp_path, monkeypatch):
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(
        DataFormatError, match=r"a\.png: it has too many pixels .*Make the picture smaller"
    ):
        read_pictures([in_file(tmp_path / "a.png")])


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="mode is 'CMYK', expected None or one of L, RGB, I;16"):
        read_pictures([], mode="CMYK")
    with pytest.raises(ValueError, match="size"):
        read_pictures([], size=(0, 4))
