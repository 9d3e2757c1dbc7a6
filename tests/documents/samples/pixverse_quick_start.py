# The document shows no program: this one takes the steps of its quick start, one by one.
import time
import uuid

import requests

# API-KEY parameter: the key created on the website
api_key = "<YOUR_PIXVERSE_KEY>"
base_url = "https://app-api.pixverse.ai/openapi/v2"


# Set Header Parameters: a new Ai-trace-id for each unique request
def headers():
    return {"API-KEY": api_key, "Ai-trace-id": str(uuid.uuid4())}


# 1. Generate video through the video generation interface
def generate_video():
    data = {"prompt": "a red kite over the sea", "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}
    said = requests.post(f"{base_url}/video/text/generate", json=data, headers=headers()).json()
    if said["ErrCode"] != 0:
        raise SystemExit(f"Error: {said['ErrCode']} - {said['ErrMsg']}")
    return said["Resp"]["video_id"]


# 2. Get video generation status: 5 indicates video is being generated, 1 indicates it is complete
def get_video(video_id):
    return requests.get(f"{base_url}/video/result/{video_id}", headers=headers()).json()["Resp"]


# 3. Poll video generation status, download video based on status changes
video_id = generate_video()
print("Video ID:", video_id)
while (video := get_video(video_id))["status"] == 5:
    print("Status: 5. Checking again in 3 seconds.")
    time.sleep(3)
if video["status"] != 1:
    raise SystemExit(f"Failed: {video}")
print("Downloaded:", len(requests.get(video["url"]).content), "bytes of video", video["id"])
