"""Who waits for the main thread's end, here and in forked children."""

import os
import sys
import threading
import time

main = threading.main_thread()


def join():
    main.join()
    print("joined", main.is_alive(), repr(main).split()[1])


def poll():
    while main.is_alive():
        time.sleep(0.01)
    joining.join()
    print("polled")


def end_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tell_in_child():
    threading.main_thread().join()
    print("joined in the child", threading.main_thread().is_alive(), flush=True)


def fork():
    by_main = threading.current_thread() is main
    child = os.fork()
    if child == 0:
        print("child", threading.main_thread() is threading.current_thread(), threading.main_thread().is_alive())
        print("the parent's", main is threading.main_thread() or main.is_alive())
        if by_main:
            threading.Thread(target=tell_in_child).start()
        return
    print(end_of(child))


sys.stdout.reconfigure(line_buffering=True)
joining = threading.Thread(target=join)
joining.start()
threading.Thread(target=poll).start()
print(main.is_alive())
forking = threading.Thread(target=fork)
forking.start()
forking.join()
here = os.getpid()
fork()
if os.getpid() == here:
    print("the end")
