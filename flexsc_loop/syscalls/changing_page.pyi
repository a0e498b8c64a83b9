from typing_extensions import disjoint_base

from flexsc_loop.syscalls.kernel_page import KernelPage

@disjoint_base
class ChangingKernelPage(KernelPage): ...
