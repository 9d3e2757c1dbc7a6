// 1. Paste this helper function
const peakmv = {
  subscribe: async (options) => {
    // Submit Job
    const res = await fetch('https://peakmv.com/api/v2/generate', {
      method: 'POST',
      headers: {
        'Authorization': `Bearer ${process.env.PEAKMV_API_KEY}`,
        'Content-Type': 'application/json'
      },
      body: JSON.stringify(options)
    });
    const { status_url } = await res.json();
    // Poll for Completion
    while (true) {
      const check = await fetch(status_url, {
        headers: { 'Authorization': `Bearer ${process.env.PEAKMV_API_KEY}` }
      });
      const job = await check.json();
      if (job.status === 'ready') return job;
      if (job.status === 'failed') throw new Error(job.error);
      await new Promise(r => setTimeout(r, 3000));
    }
  }
};
// 2. Use it (Just like an SDK)
const result = await peakmv.subscribe({
  audio_url: 'https://example.com/song.mp3',
  title: 'My Peak Music Video', // Optional
  prompt: 'Cyberpunk city', // Optional
  duration: 30, // Optional (seconds)
  video_quality: '1080p', // Optional
  // v2 only ↓
  artist_face_image_url: 'https://example.com/face.jpg', // Optional
  lipsync: true, // Optional — sync vocals to faces
});
console.log("Video Ready:", result.video_url);
