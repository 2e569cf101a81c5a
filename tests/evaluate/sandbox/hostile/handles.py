"""Files by their handles."""

import ctypes

libc = ctypes.CDLL(None, use_errno=True)
handle = ctypes.create_string_buffer(b"\x80\0\0\0\0\0\0\0" + bytes(128))
mount = ctypes.c_int()
if libc.name_to_handle_at(-100, b"/usr", handle, ctypes.byref(mount), 0) == 0:
    print("LEAK name")
if libc.open_by_handle_at(3, handle, 0) >= 0:
    print("LEAK open")
