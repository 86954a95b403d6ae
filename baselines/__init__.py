"""The agents that DisWM is compared with, one file each; parts that several share beside them."""
