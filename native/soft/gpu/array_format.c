/* SPDX-License-Identifier: Apache-2.0
 *
 * Formats of array elements, planes of planar ones, and which shapes and sizes a device can have.
 */
#include "soft/gpu/array.h"

#define ANY 0u /* 1, 2 or 4 channels */

static const struct format {
    CUarray_format first, last; /* of a run of alike ones */
    uint8_t bytes;              /* ANY: of a channel; else of an element or block */
    uint8_t channels;
    uint8_t side; /* texels of a block */
} formats[] = {
    {CU_AD_FORMAT_UNSIGNED_INT8, CU_AD_FORMAT_UNSIGNED_INT8, 1, ANY, 1},
    {CU_AD_FORMAT_UNSIGNED_INT16, CU_AD_FORMAT_UNSIGNED_INT16, 2, ANY, 1},
    {CU_AD_FORMAT_UNSIGNED_INT32, CU_AD_FORMAT_UNSIGNED_INT32, 4, ANY, 1},
    {CU_AD_FORMAT_SIGNED_INT8, CU_AD_FORMAT_SIGNED_INT8, 1, ANY, 1},
    {CU_AD_FORMAT_SIGNED_INT16, CU_AD_FORMAT_SIGNED_INT16, 2, ANY, 1},
    {CU_AD_FORMAT_SIGNED_INT32, CU_AD_FORMAT_SIGNED_INT32, 4, ANY, 1},
    {CU_AD_FORMAT_HALF, CU_AD_FORMAT_HALF, 2, ANY, 1},
    {CU_AD_FORMAT_FLOAT, CU_AD_FORMAT_FLOAT, 4, ANY, 1},
    {CU_AD_FORMAT_UNORM_INT8X1, CU_AD_FORMAT_UNORM_INT8X1, 1, 1, 1},
    {CU_AD_FORMAT_UNORM_INT8X2, CU_AD_FORMAT_UNORM_INT8X2, 2, 2, 1},
    {CU_AD_FORMAT_UNORM_INT8X4, CU_AD_FORMAT_UNORM_INT8X4, 4, 4, 1},
    {CU_AD_FORMAT_UNORM_INT16X1, CU_AD_FORMAT_UNORM_INT16X1, 2, 1, 1},
    {CU_AD_FORMAT_UNORM_INT16X2, CU_AD_FORMAT_UNORM_INT16X2, 4, 2, 1},
    {CU_AD_FORMAT_UNORM_INT16X4, CU_AD_FORMAT_UNORM_INT16X4, 8, 4, 1},
    {CU_AD_FORMAT_SNORM_INT8X1, CU_AD_FORMAT_SNORM_INT8X1, 1, 1, 1},
    {CU_AD_FORMAT_SNORM_INT8X2, CU_AD_FORMAT_SNORM_INT8X2, 2, 2, 1},
    {CU_AD_FORMAT_SNORM_INT8X4, CU_AD_FORMAT_SNORM_INT8X4, 4, 4, 1},
    {CU_AD_FORMAT_SNORM_INT16X1, CU_AD_FORMAT_SNORM_INT16X1, 2, 1, 1},
    {CU_AD_FORMAT_SNORM_INT16X2, CU_AD_FORMAT_SNORM_INT16X2, 4, 2, 1},
    {CU_AD_FORMAT_SNORM_INT16X4, CU_AD_FORMAT_SNORM_INT16X4, 8, 4, 1},
    {CU_AD_FORMAT_UNORM_INT_101010_2, CU_AD_FORMAT_UNORM_INT_101010_2, 4, 4, 1},
    {CU_AD_FORMAT_BC1_UNORM, CU_AD_FORMAT_BC1_UNORM_SRGB, 8, 4, 4},
    {CU_AD_FORMAT_BC2_UNORM, CU_AD_FORMAT_BC3_UNORM_SRGB, 16, 4, 4},
    {CU_AD_FORMAT_BC4_UNORM, CU_AD_FORMAT_BC4_SNORM, 8, 1, 4},
    {CU_AD_FORMAT_BC5_UNORM, CU_AD_FORMAT_BC5_SNORM, 16, 2, 4},
    {CU_AD_FORMAT_BC6H_UF16, CU_AD_FORMAT_BC6H_SF16, 16, 3, 4},
    {CU_AD_FORMAT_BC7_UNORM, CU_AD_FORMAT_BC7_UNORM_SRGB, 16, 4, 4},
    {CU_AD_FORMAT_YUY2, CU_AD_FORMAT_YUY2, 2, 2, 1}, /* packed: two texels share their colour */
    {CU_AD_FORMAT_Y210, CU_AD_FORMAT_Y216, 4, 2, 1},
    {CU_AD_FORMAT_AYUV, CU_AD_FORMAT_Y410, 4, 4, 1},
    {CU_AD_FORMAT_Y416, CU_AD_FORMAT_Y416, 8, 4, 1},
};

uint32_t soft_format_bytes(CUarray_format format, unsigned channels, unsigned *side)
{
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        const struct format *f = &formats[i];

        if (format < f->first || format > f->last)
            continue;
        *side = f->side;
        if (f->channels != ANY)
            return channels == f->channels ? f->bytes : 0;
        return channels == 1 || channels == 2 || channels == 4 ? f->bytes * channels : 0;
    }
    return 0;
}

/* Semi-planar: a plane of brightness, one of interleaved colours; planar: three alike. */
static const struct {
    CUarray_format format;
    bool wide, three; /* 16 bits a component */
    uint8_t narrower, lower;
} planar[] = {
    {CU_AD_FORMAT_NV12, false, false, 2, 2},
    {CU_AD_FORMAT_P010, true, false, 2, 2},
    {CU_AD_FORMAT_P016, true, false, 2, 2},
    {CU_AD_FORMAT_NV16, false, false, 2, 1},
    {CU_AD_FORMAT_P210, true, false, 2, 1},
    {CU_AD_FORMAT_P216, true, false, 2, 1},
    {CU_AD_FORMAT_Y444_PLANAR8, false, true, 1, 1},
    {CU_AD_FORMAT_Y444_PLANAR10, true, true, 1, 1},
    {CU_AD_FORMAT_YUV444_8bit_SemiPlanar, false, false, 1, 1},
    {CU_AD_FORMAT_YUV444_16bit_SemiPlanar, true, false, 1, 1},
};

bool soft_format_plane(CUarray_format format, unsigned channels, unsigned index,
                       struct soft_plane *plane)
{
    for (size_t i = 0; i < sizeof planar / sizeof planar[0]; i++) {
        if (planar[i].format != format)
            continue;
        if (channels != 3 || index >= (planar[i].three ? 3u : 2u))
            return false;
        *plane = (struct soft_plane){
            planar[i].wide ? CU_AD_FORMAT_UNSIGNED_INT16 : CU_AD_FORMAT_UNSIGNED_INT8, 1, 1, 1};
        if (index > 0 && !planar[i].three) {
            plane->channels = 2;
            plane->narrower = planar[i].narrower;
            plane->lower = planar[i].lower;
        }
        return true;
    }
    return false;
}

/* ------------------------------------------------------------------------- shapes and sizes --- */
#define KNOWN_FLAGS                                                                                \
    (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_SURFACE_LDST | CUDA_ARRAY3D_CUBEMAP |                     \
     CUDA_ARRAY3D_TEXTURE_GATHER | CUDA_ARRAY3D_DEPTH_TEXTURE | CUDA_ARRAY3D_COLOR_ATTACHMENT |    \
     CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING | CUDA_ARRAY3D_VIDEO_ENCODE_DECODE)
#define REFUSED_FLAGS                                                                              \
    (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING | CUDA_ARRAY3D_VIDEO_ENCODE_DECODE)

#define TEXTURE(name) CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE##name
#define SURFACE(name) CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE##name

struct most { /* attributes that limit the extents; 0: must be 0 (height, depth) */
    int width, height, depth;
};
enum shape { D1, D2, D3, D1_LAYERED, D2_LAYERED, CUBE, CUBE_LAYERED, SHAPES };

static const struct most texture_most[SHAPES] = {
    [D1] = {TEXTURE(1D_WIDTH), 0, 0},
    [D2] = {TEXTURE(2D_WIDTH), TEXTURE(2D_HEIGHT), 0},
    [D3] = {TEXTURE(3D_WIDTH), TEXTURE(3D_HEIGHT), TEXTURE(3D_DEPTH)},
    [D1_LAYERED] = {TEXTURE(1D_LAYERED_WIDTH), 0, TEXTURE(1D_LAYERED_LAYERS)},
    [D2_LAYERED] = {TEXTURE(2D_LAYERED_WIDTH), TEXTURE(2D_LAYERED_HEIGHT),
                    TEXTURE(2D_LAYERED_LAYERS)},
    [CUBE] = {TEXTURE(CUBEMAP_WIDTH), TEXTURE(CUBEMAP_WIDTH), TEXTURE(CUBEMAP_WIDTH)},
    [CUBE_LAYERED] = {TEXTURE(CUBEMAP_LAYERED_WIDTH), TEXTURE(CUBEMAP_LAYERED_WIDTH),
                      TEXTURE(CUBEMAP_LAYERED_LAYERS)},
};
static const struct most surface_most[SHAPES] = {
    [D1] = {SURFACE(1D_WIDTH), 0, 0},
    [D2] = {SURFACE(2D_WIDTH), SURFACE(2D_HEIGHT), 0},
    [D3] = {SURFACE(3D_WIDTH), SURFACE(3D_HEIGHT), SURFACE(3D_DEPTH)},
    [D1_LAYERED] = {SURFACE(1D_LAYERED_WIDTH), 0, SURFACE(1D_LAYERED_LAYERS)},
    [D2_LAYERED] = {SURFACE(2D_LAYERED_WIDTH), SURFACE(2D_LAYERED_HEIGHT),
                    SURFACE(2D_LAYERED_LAYERS)},
    [CUBE] = {SURFACE(CUBEMAP_WIDTH), SURFACE(CUBEMAP_WIDTH), SURFACE(CUBEMAP_WIDTH)},
    [CUBE_LAYERED] = {SURFACE(CUBEMAP_LAYERED_WIDTH), SURFACE(CUBEMAP_LAYERED_WIDTH),
                      SURFACE(CUBEMAP_LAYERED_LAYERS)},
};
static const struct most gather_most = {TEXTURE(2D_GATHER_WIDTH), TEXTURE(2D_GATHER_HEIGHT), 0};
static const struct most mip_1d_most = {TEXTURE(1D_MIPMAPPED_WIDTH), 0, 0};
static const struct most mip_2d_most = {TEXTURE(2D_MIPMAPPED_WIDTH), TEXTURE(2D_MIPMAPPED_HEIGHT),
                                        0};
static const struct most alternate_most = {
    TEXTURE(3D_WIDTH_ALTERNATE), TEXTURE(3D_HEIGHT_ALTERNATE), TEXTURE(3D_DEPTH_ALTERNATE)};

static bool within(CUdevice device, int attribute, size_t extent)
{
    int most = 0;

    if (attribute == 0)
        return extent == 0;
    return cuDeviceGetAttribute(&most, (CUdevice_attribute)attribute, device) == CUDA_SUCCESS &&
           extent >= 1 && extent <= (size_t)most;
}

static bool fits(CUdevice device, const struct most *most, const CUDA_ARRAY3D_DESCRIPTOR *d)
{
    return within(device, most->width, d->Width) && within(device, most->height, d->Height) &&
           within(device, most->depth, d->Depth);
}

static bool shape_of(const CUDA_ARRAY3D_DESCRIPTOR *d, enum shape *shape)
{
    bool layered = (d->Flags & CUDA_ARRAY3D_LAYERED) != 0;

    if ((d->Flags & CUDA_ARRAY3D_CUBEMAP) != 0) {
        *shape = layered ? CUBE_LAYERED : CUBE;
        return d->Width == d->Height &&
               (layered ? d->Depth > 0 && d->Depth % 6 == 0 : d->Depth == 6);
    }
    if (layered) {
        *shape = d->Height == 0 ? D1_LAYERED : D2_LAYERED;
        return d->Depth > 0;
    }
    *shape = d->Depth > 0 ? D3 : d->Height > 0 ? D2 : D1;
    return d->Depth == 0 || d->Height > 0;
}

/* A planar format: two-dimensional, of full colour texels. */
static CUresult check_planes(const CUDA_ARRAY3D_DESCRIPTOR *d, enum shape shape, bool mipmap)
{
    struct soft_plane last;

    if (!soft_format_plane(d->Format, d->NumChannels, 1, &last) || shape != D2 || mipmap ||
        d->Width % last.narrower != 0 || d->Height % last.lower != 0)
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

CUresult soft_array_check(CUdevice device, const CUDA_ARRAY3D_DESCRIPTOR *d, bool mipmap)
{
    const struct most *most;
    enum shape shape;
    unsigned side;

    if ((d->Flags & ~(unsigned)KNOWN_FLAGS) != 0 || !shape_of(d, &shape))
        return CUDA_ERROR_INVALID_VALUE;
    if (soft_format_bytes(d->Format, d->NumChannels, &side) == 0) {
        CUresult r = check_planes(d, shape, mipmap);

        if (r != CUDA_SUCCESS)
            return r;
    } else if (side > 1 && shape != D2 && shape != D2_LAYERED) {
        return CUDA_ERROR_INVALID_VALUE; /* blocks are squares */
    }
    if ((d->Flags & CUDA_ARRAY3D_DEPTH_TEXTURE) != 0 && d->NumChannels != 1)
        return CUDA_ERROR_INVALID_VALUE;
    if ((d->Flags & CUDA_ARRAY3D_TEXTURE_GATHER) != 0 && shape != D2)
        return CUDA_ERROR_INVALID_VALUE;
    most = &texture_most[shape];
    if ((d->Flags & CUDA_ARRAY3D_SURFACE_LDST) != 0)
        most = &surface_most[shape];
    else if ((d->Flags & CUDA_ARRAY3D_TEXTURE_GATHER) != 0)
        most = &gather_most;
    else if (mipmap && shape == D1)
        most = &mip_1d_most;
    else if (mipmap && shape == D2)
        most = &mip_2d_most;
    if (!fits(device, most, d) &&
        (shape != D3 || most != &texture_most[D3] || !fits(device, &alternate_most, d)))
        return CUDA_ERROR_INVALID_VALUE;
    if ((d->Flags & REFUSED_FLAGS) != 0) {
        soft_log("arrays with flags 0x%x (sparse, mapped later, for video) are not there",
                 d->Flags & REFUSED_FLAGS);
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    return CUDA_SUCCESS;
}
