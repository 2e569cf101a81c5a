"""Ends, but its thread does not."""

import threading
import time

threading.Thread(target=time.sleep, args=(1000,)).start()
