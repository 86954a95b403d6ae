"""Films: what is one in a folder, and its frames, decoded and upright.

A film is a video file, an animated picture, or a folder of images (`media.files`). The frames of
any of them come from `media.decoding`; single images, from `media.images`.
"""
