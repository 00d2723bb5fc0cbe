// The interface as a page: Swagger UI reads /openapi.json and makes the rest.
"use strict";

// A stream has no end to wait for: its first event is shown, then it is closed.
async function firstEvent(address, options) {
  const answer = await fetch(address, options);
  if (!(answer.headers.get("content-type") || "").startsWith("text/event-stream")) return answer;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!/^data:.*\n\n/m.test(text)) {
    const { value, done } = await reader.read();
    if (done) break;
    text += value;
  }
  await reader.cancel();
  return new Response(text, { status: answer.status, statusText: answer.statusText, headers: answer.headers });
}

// Swagger UI has colours for the dark, and leaves the choice to a button of a bar that is not here.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#interface",
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  filter: true,
  validatorUrl: null,
  requestInterceptor: (request) => {
    request.userFetch = firstEvent;
    return request;
  },
});
