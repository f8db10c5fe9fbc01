# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Modules, libraries, kernels, the linker."""

from __future__ import annotations

from native.api.model import Charge, Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuModuleLoad", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuModuleLoad 2000 (CUmodule *module, const char *fname)""",
        remote="local: the client reads the file, and goes on as cuModuleLoadData",
        charge=Charge.CODE),
    fn("cuModuleLoadData", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuModuleLoadData 2000 (CUmodule *module, const void *image)""",
        remote="sync module=new image=image",
        charge=Charge.CODE),
    fn("cuModuleLoadDataEx", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuModuleLoadDataEx 2010 (CUmodule *module, const void *image, unsigned int numOptions,
            CUjit_option *options, void **optionValues)""",
        remote="sync always module=new image=image optionValues=words(options)[numOptions]",
        charge=Charge.CODE),
    fn("cuModuleLoadFatBinary", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuModuleLoadFatBinary 2000 (CUmodule *module, const void *fatCubin)""",
        remote="sync module=new fatCubin=image",
        charge=Charge.CODE),
    fn("cuModuleUnload", Cls.FREE, Gate.MEM_FREE, """
        cuModuleUnload 2000 (CUmodule hmod)""",
        remote="async hmod=del"),
    fn("cuModuleGetLoadingMode", Cls.QUERY, Gate.NONE, """
        cuModuleGetLoadingMode 11070 (CUmoduleLoadingMode *mode)""",
        remote="cached"),
    fn("cuModuleGetFunction", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuModuleGetFunction 2000 (CUfunction *hfunc, CUmodule hmod, const char *name)""",
        remote="cached hfunc=new",
        charge=Charge.CODE),
    fn("cuModuleGetFunctionCount", Cls.QUERY, Gate.NONE, """
        cuModuleGetFunctionCount 12040 (unsigned int *count, CUmodule mod)""",
        remote="cached"),
    fn("cuModuleEnumerateFunctions", Cls.QUERY, Gate.NONE, """
        cuModuleEnumerateFunctions 12040 (CUfunction *functions, unsigned int numFunctions,
            CUmodule mod)""",
        remote="cached functions=ref[numFunctions]"),
    fn("cuModuleGetGlobal", Cls.ALLOC, Gate.NONE, """
        cuModuleGetGlobal 2000 (CUdeviceptr_v1 *dptr, unsigned int *bytes, CUmodule hmod,
            const char *name)
        cuModuleGetGlobal_v2 3020 (CUdeviceptr *dptr, size_t *bytes, CUmodule hmod,
            const char *name)""",
        remote="cached",
        charge=Charge.NOTHING,
        why="variables are placed, and charged, when their module is loaded"),
    fn("cuLinkCreate", Cls.OTHER, Gate.NONE, """
        cuLinkCreate 5050 (unsigned int numOptions, CUjit_option *options, void **optionValues,
            CUlinkState *stateOut)
        cuLinkCreate_v2 6050 (unsigned int numOptions, CUjit_option *options,
            void **optionValues, CUlinkState *stateOut)""",
        remote="sync always stateOut=new optionValues=words(options)[numOptions]"),
    fn("cuLinkAddData", Cls.OTHER, Gate.NONE, """
        cuLinkAddData 5050 (CUlinkState state, CUjitInputType type, void *data, size_t size,
            const char *name, unsigned int numOptions, CUjit_option *options,
            void **optionValues)
        cuLinkAddData_v2 6050 (CUlinkState state, CUjitInputType type, void *data, size_t size,
            const char *name, unsigned int numOptions, CUjit_option *options,
            void **optionValues)""",
        remote="sync always data=image optionValues=words(options)[numOptions]"),
    fn("cuLinkAddFile", Cls.OTHER, Gate.NONE, """
        cuLinkAddFile 5050 (CUlinkState state, CUjitInputType type, const char *path,
            unsigned int numOptions, CUjit_option *options, void **optionValues)
        cuLinkAddFile_v2 6050 (CUlinkState state, CUjitInputType type, const char *path,
            unsigned int numOptions, CUjit_option *options, void **optionValues)""",
        remote="local: the client reads the file, and goes on as cuLinkAddData"),
    fn("cuLinkComplete", Cls.OTHER, Gate.NONE, """
        cuLinkComplete 5050 (CUlinkState state, void **cubinOut, size_t *sizeOut)""",
        remote="sync cubinOut=lent.fetch[*sizeOut]"),
    fn("cuLinkDestroy", Cls.FREE, Gate.NONE, """
        cuLinkDestroy 5050 (CUlinkState state)""",
        remote="async state=del"),
    fn("cuModuleGetTexRef", Cls.QUERY, Gate.NONE, """
        cuModuleGetTexRef 2000 (CUtexref *pTexRef, CUmodule hmod, const char *name)""",
        remote="sync pTexRef=ref"),
    fn("cuModuleGetSurfRef", Cls.QUERY, Gate.NONE, """
        cuModuleGetSurfRef 3000 (CUsurfref *pSurfRef, CUmodule hmod, const char *name)""",
        remote="sync pSurfRef=ref"),
    fn("cuLibraryLoadData", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuLibraryLoadData 12000 (CUlibrary *library, const void *code, CUjit_option *jitOptions,
            void **jitOptionsValues, unsigned int numJitOptions,
            CUlibraryOption *libraryOptions, void **libraryOptionValues,
            unsigned int numLibraryOptions)""",
        remote="sync always library=new code=image "
            "jitOptionsValues=words(jitOptions)[numJitOptions] "
            "libraryOptionValues=words(libraryOptions)[numLibraryOptions]",
        charge=Charge.CODE),
    fn("cuLibraryLoadFromFile", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuLibraryLoadFromFile 12000 (CUlibrary *library, const char *fileName,
            CUjit_option *jitOptions, void **jitOptionsValues, unsigned int numJitOptions,
            CUlibraryOption *libraryOptions, void **libraryOptionValues,
            unsigned int numLibraryOptions)""",
        remote="local: the client reads the file, and goes on as cuLibraryLoadData",
        charge=Charge.CODE),
    fn("cuLibraryUnload", Cls.FREE, Gate.MEM_FREE, """
        cuLibraryUnload 12000 (CUlibrary library)""",
        remote="async library=del"),
    fn("cuLibraryGetKernel", Cls.QUERY, Gate.NONE, """
        cuLibraryGetKernel 12000 (CUkernel *pKernel, CUlibrary library, const char *name)""",
        remote="cached pKernel=new"),
    fn("cuLibraryGetKernelCount", Cls.QUERY, Gate.NONE, """
        cuLibraryGetKernelCount 12040 (unsigned int *count, CUlibrary lib)""",
        remote="cached"),
    fn("cuLibraryEnumerateKernels", Cls.QUERY, Gate.NONE, """
        cuLibraryEnumerateKernels 12040 (CUkernel *kernels, unsigned int numKernels,
            CUlibrary lib)""",
        remote="cached kernels=ref[numKernels]"),
    fn("cuLibraryGetModule", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuLibraryGetModule 12000 (CUmodule *pMod, CUlibrary library)""",
        remote="sync pMod=ref",
        charge=Charge.CODE),
    fn("cuKernelGetFunction", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuKernelGetFunction 12000 (CUfunction *pFunc, CUkernel kernel)""",
        remote="cached pFunc=new",
        charge=Charge.CODE),
    fn("cuKernelGetLibrary", Cls.QUERY, Gate.NONE, """
        cuKernelGetLibrary 12050 (CUlibrary *pLib, CUkernel kernel)""",
        remote="cached pLib=ref"),
    fn("cuLibraryGetGlobal", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuLibraryGetGlobal 12000 (CUdeviceptr *dptr, size_t *bytes, CUlibrary library,
            const char *name)""",
        remote="cached",
        charge=Charge.CODE),
    fn("cuLibraryGetManaged", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuLibraryGetManaged 12000 (CUdeviceptr *dptr, size_t *bytes, CUlibrary library,
            const char *name)""",
        remote="refused: managed memory: its pages would cross the wire at every fault",
        charge=Charge.CODE),
    fn("cuLibraryGetUnifiedFunction", Cls.QUERY, Gate.NONE, """
        cuLibraryGetUnifiedFunction 12000 (void **fptr, CUlibrary library, const char *symbol)""",
        remote="refused: answers an address of a function of the program"),
    fn("cuKernelGetAttribute", Cls.QUERY, Gate.NONE, """
        cuKernelGetAttribute 12000 (int *pi, CUfunction_attribute attrib, CUkernel kernel,
            CUdevice dev)""",
        remote="cached"),
    fn("cuKernelSetAttribute", Cls.OTHER, Gate.NONE, """
        cuKernelSetAttribute 12000 (CUfunction_attribute attrib, int val, CUkernel kernel,
            CUdevice dev)""",
        remote="async"),
    fn("cuKernelSetCacheConfig", Cls.OTHER, Gate.NONE, """
        cuKernelSetCacheConfig 12000 (CUkernel kernel, CUfunc_cache config, CUdevice dev)""",
        remote="async"),
    fn("cuKernelGetName", Cls.QUERY, Gate.NONE, """
        cuKernelGetName 12030 (const char **name, CUkernel hfunc)""",
        remote="cached name=lent"),
    fn("cuKernelGetParamInfo", Cls.QUERY, Gate.NONE, """
        cuKernelGetParamInfo 12040 (CUkernel kernel, size_t paramIndex, size_t *paramOffset,
            size_t *paramSize)""",
        remote="cached"),
)
