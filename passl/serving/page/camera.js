// Photos of the camera.

import { text } from "./language.js";

const QUALITY = 0.95;

// Let the buttons open and close the camera; `taken` gets each photo.
export function offerCamera(taken) {
  const find = (id) => document.getElementById(id);
  const [panel, video, problem, opener] = ["camera", "video", "camera-problem", "open-camera"].map(find);
  let stream = null;

  function close() {
    stream?.getTracks().forEach((track) => track.stop());
    stream = video.srcObject = null;
    panel.hidden = true;
  }

  function tell(key) {
    problem.hidden = !key;
    problem.textContent = key ? text(key) : "";
    if (key) problem.dataset.text = key;
    else delete problem.dataset.text;
  }

  opener.addEventListener("click", async () => {
    tell(null);
    if (!navigator.mediaDevices) return tell("cameraInsecure");
    if (stream) return find("take").focus();
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      panel.hidden = false;
      find("take").disabled = true;
      video.srcObject = stream;
      await video.play();
      find("take").disabled = false;
      find("take").focus();
    } catch (error) {
      close();
      tell(error.name === "NotAllowedError" ? "cameraDenied" : "cameraMissing");
    }
  });
  find("take").addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((photo) => taken(photo), "image/jpeg", QUALITY);
  });
  find("close-camera").addEventListener("click", () => {
    close();
    opener.focus();
  });
}
