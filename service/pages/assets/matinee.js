// What the moviegoer's pages do besides where scripts run. Everything they are for works without.
"use strict";

const booking = document.getElementById("booking");
if (booking) {
  echoChoice(booking);
  follow(booking);
}
for (const form of document.querySelectorAll("form[method=post]")) sendOnce(form);
offerLink(document.getElementById("share"));
document.querySelector(".notice:target")?.focus();

// The ticket shows the showtime that is chosen.
function echoChoice(form) {
  const place = document.getElementById("chosen");
  const show = () => {
    const radio = form.querySelector("[name=timing]:checked");
    if (!radio) return;
    const label = radio.labels[0];
    const part = (kind, text) => Object.assign(document.createElement("span"), { className: kind, textContent: text });
    place.replaceChildren(
      part("at", label.querySelector("time").textContent), " ",
      part("film", label.querySelector(".film")?.textContent ?? ""), " ",
      part("on", radio.dataset.day),
    );
  };
  form.addEventListener("change", show);
  addEventListener("pageshow", show);
  show();
}

// Seats change while one looks at them. A lost stream comes back by itself; one that was refused is asked for again.
function follow(form) {
  const live = document.getElementById("live");
  let stream;
  let again;
  const open = () => {
    stream = new EventSource(form.dataset.stream);
    stream.onopen = () => { live.hidden = false; };
    stream.onerror = () => {
      live.hidden = true;
      if (stream.readyState === EventSource.CLOSED) again = setTimeout(open, 30000 + 30000 * Math.random());
    };
    stream.addEventListener("seats", (event) => {
      for (const seats of JSON.parse(event.data).showtimes) showSeats(form, seats);
      countDays(form);
    });
  };
  open();
  addEventListener("pagehide", () => { clearTimeout(again); stream.close(); });
  addEventListener("pageshow", (event) => { if (event.persisted) open(); });
}

function showSeats(form, seats) {
  const radio = document.getElementById(`at-${seats.showtime}`);
  if (!radio) return;
  const stub = radio.closest(".stub");
  const text = stub.querySelector(".seats");
  const words = { sold_out: "Sold out", closed: "Closed" }[seats.status] ?? seatsLeft(seats.available);
  if (text.textContent === words) return;
  text.textContent = words;
  stub.querySelector("rect").setAttribute("width", Math.floor(100 * seats.available / seats.capacity));
  stub.classList.remove("changed");
  requestAnimationFrame(() => stub.classList.add("changed"));
  radio.disabled = seats.status !== "open";
  // Only what concerns the reader is read out: the showtime that is chosen.
  if (radio.checked) document.getElementById("news").textContent = `${seats.timing}: ${words}.`;
  if (radio.checked && radio.disabled) {
    radio.checked = false;
    radio.dispatchEvent(new Event("change", { bubbles: true }));
  }
}

const seatsLeft = (number) => `${number} ${number === 1 ? "seat" : "seats"} left`;

function countDays(form) {
  for (const day of form.querySelectorAll(".day")) {
    let left = 0;
    for (const seats of day.querySelectorAll(".seats")) left += parseInt(seats.textContent, 10) || 0;
    day.querySelector(".left").textContent = seatsLeft(left);
  }
}

// A second press while the first is on its way does nothing. (The service would book once all the same.)
function sendOnce(form) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
    event.submitter?.setAttribute("aria-busy", "true");
  });
  addEventListener("pageshow", () => {
    delete form.dataset.sent;
    form.querySelector("[aria-busy]")?.removeAttribute("aria-busy");
  });
}

// The ticket's link, to keep or to hand on, without the notice at its end.
function offerLink(button) {
  const link = location.href.split("#")[0];
  if (!button || !(navigator.share || navigator.clipboard)) return;
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      if (navigator.share) await navigator.share({ title: document.title, url: link });
      else await navigator.clipboard.writeText(link);
      document.getElementById("shared").textContent = navigator.share ? "" : "Copied.";
    } catch {
      document.getElementById("shared").textContent = "That did not work; copy it from the address bar.";
    }
  });
}
