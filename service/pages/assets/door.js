// What the box office's pages do besides where scripts run. Everything they are for works without.
"use strict";

const door = document.getElementById("door");
if (door) keepTheDoor(door);

const print = document.getElementById("print");
if (print) {
  print.hidden = false;
  print.addEventListener("click", () => window.print());
}
document.querySelector(".notice:target")?.focus();

// A ticket is let in without leaving the page, so that a scanner can go on with the next one.
function keepTheDoor(form) {
  const field = form.elements.ticket_id;
  const result = document.getElementById("result");

  async function letIn() {
    const answer = await fetch(form.action, {
      method: "POST",
      headers: { Accept: "text/html" },
      body: new URLSearchParams({ ticket_id: field.value }),
    });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const said = page.getElementById("result");
    if (!said) return form.submit(); // signed out meanwhile, or out of order: the whole page says it
    result.replaceChildren(...said.childNodes);
    navigator.vibrate?.(answer.ok ? 80 : [80, 60, 80, 60, 80]);
    field.value = "";
    field.focus({ preventScroll: true });
  }

  form.addEventListener("submit", (event) => {
    if (event.submitter?.formMethod === "get") return; // looking up is another page
    event.preventDefault();
    letIn().catch(() => form.submit());
  });
  if ("BarcodeDetector" in window && navigator.mediaDevices) offerCamera(document.getElementById("scan"), field, letIn);
}

function offerCamera(button, field, letIn) {
  const camera = document.getElementById("camera");
  const detector = new BarcodeDetector({ formats: ["qr_code"] });
  let stream = null;
  let last = "";
  button.hidden = false;

  async function look() {
    if (!stream) return;
    const [code] = await detector.detect(camera).catch(() => []);
    const seen = code?.rawValue ?? "";
    if (seen && seen !== last) { // the same ticket held on is no second try
      field.value = seen;
      await letIn().catch(() => {});
    }
    if (seen) last = seen;
    setTimeout(look, 200);
  }

  button.addEventListener("click", async () => {
    if (stream) {
      for (const track of stream.getTracks()) track.stop();
      stream = null;
    } else {
      try {
        stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      } catch {
        button.textContent = "No camera is allowed here";
        return;
      }
      camera.srcObject = stream;
      await camera.play();
      last = "";
      look();
    }
    camera.hidden = !stream;
    button.textContent = stream ? "Stop the camera" : "Scan with the camera";
  });
}
