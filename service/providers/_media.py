"""What kind of thing a result is, by its file's extension or media type, where the provider does not say."""

import re

URL = re.compile(r"(https?://|data:[\w.+-]+/[\w.+-]+[;,])[!-\[\]-~]+", re.A)
KINDS = {
    "video": ("mp4", "webm", "mov", "mkv", "avi"),
    "image": ("png", "jpg", "jpeg", "webp", "avif", "bmp", "tiff", "svg"),
    "audio": ("mp3", "wav", "flac", "ogg", "m4a", "aac", "opus"),
    "gif": ("gif",),
    "subtitle": ("srt", "vtt", "ass"),
    "model_3d": ("glb", "gltf", "obj", "ply", "stl", "fbx", "usdz"),
    "text": ("txt",),
}
BY_EXTENSION = {extension: kind for kind, extensions in KINDS.items() for extension in extensions}
BY_MEDIA_TYPE = {
    "image/gif": "gif", "text/vtt": "subtitle", "application/x-subrip": "subtitle", "video": "video", "image": "image",
    "audio": "audio", "model": "model_3d",
}  # fmt: skip
