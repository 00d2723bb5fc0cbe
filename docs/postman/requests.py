"""The requests of the Postman collection: every route, for what it does and for what it refuses.

A run leaves two admitted tickets behind; it cancels the others that it books, so it can be repeated.
"""

import json
from typing import Any

import msgspec

STAFF = {"Authorization": "Bearer {{staffToken}}"}
PHONE = "+919812345678"
HTML = {"Accept": "text/html"}
ASHA = {"name": "Asha Rao", "phone": "+91 98123 45678"}
UNKNOWN = "{{theatre}}-0000000000000000"
TICKET = "/v1/tickets/{{ticketId}}"
SHOWTIMES = "/v1/theatres/{{theatre}}/showtimes"


FILL_THE_HOUSE = """\
// Books every seat that is left at that showtime, one after another.
const made = [];
const book = () => pm.sendRequest({
  url: pm.variables.replaceIn("{{baseUrl}}/v1/tickets"),
  method: "POST",
  header: { "Content-Type": "application/json" },
  body: { mode: "raw", raw: pm.variables.replaceIn(`{"name":"Crowd","phone":"1234567","timing":"{{fullShowtime}}"}`) },
}, (error, answer) => {
  if (error || answer.code !== 201) return pm.collectionVariables.set("crowd", JSON.stringify(made));
  made.push(answer.json().ticket_id);
  book();
});
book();"""

EMPTY_THE_HOUSE = """\
for (const ticket of JSON.parse(pm.collectionVariables.get("crowd")))
  pm.sendRequest({
    url: pm.variables.replaceIn(`{{baseUrl}}/v1/tickets/${ticket}`),
    method: "DELETE",
    header: { Authorization: pm.variables.replaceIn("Bearer {{staffToken}}") },
  }, () => {});"""


def event(listen: str, script: str) -> dict[str, Any]:
    """A script and when it runs, as Postman writes it."""
    return {"listen": listen, "script": {"type": "text/javascript", "exec": script.split("\n")}}


class Request(msgspec.Struct):
    """One request of the collection.

    `status` and `code` are what the answer must have; `checks` are more, by what they show, as JavaScript that may use
    `told` (the answer's JSON, or its text), `header(name)` and `saved(variable)`. `saves` are variables for later
    requests. `before` runs ahead of it, `after` at the end.
    """

    name: str
    method: str
    path: str
    status: int = 200
    code: str = ""
    headers: dict[str, str] = {}
    body: Any = None
    form: dict[str, str] | None = None
    query: dict[str, str] = {}
    checks: dict[str, str] = {}
    saves: dict[str, str] = {}
    before: str = ""
    after: str = ""
    about: str = ""

    def item(self) -> dict[str, Any]:
        """As Postman writes it."""
        events = [event("test", self._script())]
        if self.before:
            events.insert(0, event("prerequest", self.before))
        return {
            "name": self.name,
            "event": events,
            "request": {
                "method": self.method,
                "header": [{"key": key, "value": value} for key, value in self._headers().items()],
                **self._body(),
                "url": self._url(),
                "description": self.about,
            },
            "response": [],
            # What a form leads to is a request of its own.
            "protocolProfileBehavior": {"followRedirects": False},
        }

    def _headers(self) -> dict[str, str]:
        typed = {} if self.body is None or "Content-Type" in self.headers else {"Content-Type": "application/json"}
        return {**typed, **self.headers}

    def _body(self) -> dict[str, Any]:
        if self.form is not None:
            fields = [{"key": key, "value": value, "type": "text"} for key, value in self.form.items()]
            return {"body": {"mode": "urlencoded", "urlencoded": fields}}
        if self.body is not None:
            raw = self.body if isinstance(self.body, str) else json.dumps(self.body, indent=2, ensure_ascii=False)
            return {"body": {"mode": "raw", "raw": raw}}
        return {}

    def _url(self) -> dict[str, Any]:
        query = "&".join(f"{key}={value}" for key, value in self.query.items())
        url: dict[str, Any] = {
            "raw": "{{baseUrl}}" + self.path + (f"?{query}" if query else ""),
            "host": ["{{baseUrl}}"],
            "path": self.path.strip("/").split("/"),
        }
        if self.query:
            url["query"] = [{"key": key, "value": value} for key, value in self.query.items()]
        return url

    def _script(self) -> str:
        lines = [f'pm.test("{self.status}", () => pm.response.to.have.status({self.status}));']
        if self.code:
            lines.append(f'pm.test("{self.code}", () => pm.expect(pm.response.json().code).to.equal("{self.code}"));')
        if self.checks or self.saves:
            lines += [
                "const header = name => pm.response.headers.get(name) || '';",
                "const saved = name => pm.variables.get(name);",
                'const told = /json/.test(header("Content-Type")) ? pm.response.json() : pm.response.text();',
            ]
        lines += [f"pm.test({json.dumps(words)}, () => {{ {check} }});" for words, check in self.checks.items()]
        lines += [f'pm.collectionVariables.set("{name}", {value});' for name, value in self.saves.items()]
        return "\n".join([*lines, *([self.after] if self.after else [])])


CLASSIC = [
    Request(
        "The time slots available",
        "GET",
        "/",
        checks={
            "each slot tells its seats": "for (const slot of told.showtimes) "
            "pm.expect(slot.available + slot.booked).to.equal(slot.capacity);",
        },
        saves={
            "theatre": "told.theatre.id",
            "timing": "told.showtimes[0].timing",
            "showtime": "told.showtimes[0].showtime",
            "date": 'told.showtimes[0].showtime.split("T")[0]',
            "otherTiming": "told.showtimes[1].timing",
            "fullShowtime": "told.showtimes.at(-1).showtime",
        },
        about="For a client that prefers HTML this is the web page. The other requests take their timings from here.",
    ),
    Request(
        "Book a ticket with a form",
        "POST",
        "/booktickets",
        201,
        form={**ASHA, "timing": "{{timing}}"},
        checks={
            "a ticket for that timing": 'pm.expect(told).to.include({ status: "booked", timing: saved("timing") });',
            "the phone is masked": 'pm.expect(told.phone).to.equal("+**********78");',
            "Location leads to it": 'pm.expect(header("Location")).to.equal(`/v1/tickets/${told.ticket_id}`);',
        },
        saves={"ticketId": "told.ticket_id"},
        about="The classic way to book. Postman encodes the form, so the + of the phone arrives as it is.",
    ),
    Request(
        "Book a ticket with JSON",
        "POST",
        "/booktickets",
        201,
        body={"name": "Noor Haddad", "phone": "+971501234567", "timing": "{{timing}}"},
        checks={"its own ticket": 'pm.expect(told.ticket_id).not.to.equal(saved("ticketId"));'},
        saves={"secondId": "told.ticket_id"},
    ),
    Request(
        "Book with nothing right",
        "POST",
        "/booktickets",
        422,
        "invalid_input",
        body={"name": "", "phone": "12", "timing": "25:00", "seat": "A1"},
        checks={
            "every bad field is named at once": "pm.expect(told.errors.map(error => error.field).sort())"
            '.to.eql(["name", "phone", "seat", "timing"]);',
        },
    ),
    Request(
        "Book at no timing of the theatre",
        "POST",
        "/booktickets",
        404,
        "showtime_not_found",
        form={**ASHA, "timing": "04:44"},
    ),
    Request(
        "Book with XML",
        "POST",
        "/booktickets",
        415,
        "unsupported_media_type",
        {"Content-Type": "application/xml"},
        "<ticket/>",
    ),
    Request("Book with half a body", "POST", "/booktickets", 400, "malformed_body", body='{"name": '),
    Request(
        "Another method",
        "PUT",
        "/booktickets",
        405,
        "method_not_allowed",
        checks={"Allow tells the right one": 'pm.expect(header("Allow")).to.equal("POST");'},
    ),
    Request(
        "Change the timing",
        "POST",
        "/update",
        form={"ticket_id": "{{ticketId}}", "phone": PHONE, "timing_alter": "{{otherTiming}}"},
        checks={"the same ticket, moved": 'pm.expect(told.timing).to.equal(saved("otherTiming"));'},
    ),
    Request(
        "Change it with the wrong phone",
        "POST",
        "/update",
        403,
        "wrong_phone",
        form={"ticket_id": "{{ticketId}}", "phone": "7654321", "timing_alter": "{{timing}}"},
    ),
    Request(
        "All tickets for a timing",
        "POST",
        "/viewontime",
        headers=STAFF,
        form={"timing": "{{otherTiming}}"},
        checks={
            "the ticket is among them": "pm.expect(told.tickets.map(ticket => ticket.ticket_id))"
            '.to.include(saved("ticketId"));',
        },
    ),
    Request("All tickets, for a stranger", "POST", "/viewontime", 401, "staff_only", form={"timing": "{{timing}}"}),
    Request(
        "The user of a ticket",
        "POST",
        "/viewuser",
        headers=STAFF,
        form={"ticket_id": "{{ticketId}}"},
        checks={"name and phone": f'pm.expect(told).to.include({{ name: "Asha Rao", phone: "{PHONE}" }});'},
    ),
    Request("The user of no ticket", "POST", "/viewuser", 404, "ticket_not_found", STAFF, form={"ticket_id": UNKNOWN}),
    Request("The user of what is no id", "POST", "/viewuser", 422, "invalid_input", STAFF, form={"ticket_id": "17"}),
    Request(
        "Delete the ticket",
        "POST",
        "/delete",
        form={"ticket_id": "{{ticketId}}", "phone": PHONE},
        checks={"it says so": 'pm.expect(told.status).to.equal("cancelled");'},
    ),
    Request(
        "Delete it again",
        "POST",
        "/delete",
        404,
        "ticket_not_found",
        form={"ticket_id": "{{ticketId}}", "phone": PHONE},
    ),
    Request("Delete the other one", "POST", "/delete", form={"ticket_id": "{{secondId}}", "phone": "+971501234567"}),
]

PROGRAMME = [
    Request(
        "The theatres",
        "GET",
        "/v1/theatres",
        query={"limit": "20"},
        checks={
            "the theatre is one of them": "pm.expect(told.theatres.map(theatre => theatre.id))"
            '.to.include(saved("theatre"));',
            "Link leads to the first page": 'pm.expect(header("Link")).to.include(\'rel="first"\');',
        },
    ),
    Request("A page of no theatres", "GET", "/v1/theatres", 422, "invalid_input", query={"limit": "0"}),
    Request(
        "One theatre",
        "GET",
        "/v1/theatres/{{theatre}}",
        checks={"its timings": 'pm.expect(told.timings).to.include(saved("timing"));'},
    ),
    Request("No such theatre", "GET", "/v1/theatres/odeon", 404, "theatre_not_found"),
    Request(
        "The showtimes of a day",
        "GET",
        SHOWTIMES,
        query={"date": "{{date}}"},
        checks={
            "all of that day": "for (const each of told.showtimes) "
            "pm.expect(each.showtime.startsWith(saved('date'))).to.be.true;",
        },
        saves={"etag": 'header("ETag")'},
    ),
    Request(
        "The same, unchanged",
        "GET",
        SHOWTIMES,
        304,
        headers={"If-None-Match": "{{etag}}"},
        query={"date": "{{date}}"},
        about="The client's copy is the current one: nothing is sent but the head.",
    ),
    Request("The showtimes of no day", "GET", SHOWTIMES, 422, "invalid_input", query={"date": "2026-02-30"}),
    Request(
        "One showtime",
        "GET",
        SHOWTIMES + "/{{showtime}}",
        checks={"open": 'pm.expect(told.status).to.equal("open");'},
    ),
    Request("No such showtime", "GET", SHOWTIMES + "/{{date}}T04:44", 404, "showtime_not_found"),
    Request(
        "What the stream of live seats is",
        "HEAD",
        SHOWTIMES + "/stream",
        checks={"a stream of events": 'pm.expect(header("Content-Type")).to.equal("text/event-stream");'},
        about="With GET it has no end: Postman shows the events as they come, a run of the collection would wait.",
    ),
    Request("Live seats of no theatre", "GET", "/v1/theatres/odeon/showtimes/stream", 404, "theatre_not_found"),
]

TICKETS = [
    Request(
        "Book a ticket",
        "POST",
        "/v1/tickets",
        201,
        headers={"Idempotency-Key": "{{key}}"},
        body={**ASHA, "timing": "{{timing}}", "theatre": "{{theatre}}"},
        before='pm.collectionVariables.set("key", pm.variables.replaceIn("{{$guid}}"));',
        checks={
            "a ticket": 'pm.expect(told).to.include({ status: "booked", name: "Asha Rao" });',
            "nobody may store it": 'pm.expect(header("Cache-Control")).to.equal("no-store");',
        },
        saves={"ticketId": "told.ticket_id", "showtime": "told.showtime"},
    ),
    Request(
        "Repeat the booking",
        "POST",
        "/v1/tickets",
        201,
        headers={"Idempotency-Key": "{{key}}"},
        body={**ASHA, "timing": "{{timing}}", "theatre": "{{theatre}}"},
        checks={
            "the same ticket": 'pm.expect(told.ticket_id).to.equal(saved("ticketId"));',
            "and it says so": 'pm.expect(header("Idempotency-Replayed")).to.equal("true");',
        },
        about="The same Idempotency-Key with the same body: as after an answer that got lost on its way.",
    ),
    Request(
        "The key with another body",
        "POST",
        "/v1/tickets",
        422,
        "idempotency_key_reused",
        {"Idempotency-Key": "{{key}}"},
        {**ASHA, "name": "Somebody Else", "timing": "{{timing}}"},
    ),
    Request(
        "Look at the ticket",
        "GET",
        TICKET,
        checks={"its phone is masked": 'pm.expect(told.phone).to.equal("+**********78");'},
    ),
    Request("No such ticket", "GET", f"/v1/tickets/{UNKNOWN}", 404, "ticket_not_found"),
    Request("No ticket id at all", "GET", "/v1/tickets/17", 422, "invalid_input"),
    Request(
        "Move the ticket",
        "PATCH",
        TICKET,
        headers={"Ticket-Phone": PHONE},
        body={"timing": "{{otherTiming}}"},
        checks={"it is there now": 'pm.expect(told.timing).to.equal(saved("otherTiming"));'},
        saves={"showtime": "told.showtime"},
    ),
    Request("Move it without the phone", "PATCH", TICKET, 403, "wrong_phone", body={"timing": "{{timing}}"}),
    Request(
        "Book what is sold out",
        "POST",
        "/v1/tickets",
        409,
        "sold_out",
        body={**ASHA, "timing": "{{fullShowtime}}"},
        before=FILL_THE_HOUSE,
        after=EMPTY_THE_HOUSE,
        about="The script ahead of it takes every seat that is left, the one after it gives them back.",
    ),
    Request(
        "Book what is over",
        "POST",
        "/v1/tickets",
        409,
        "showtime_closed",
        body={**ASHA, "timing": "2020-02-29T{{timing}}"},
    ),
    Request(
        "Book at no theatre",
        "POST",
        "/v1/tickets",
        404,
        "theatre_not_found",
        body={**ASHA, "timing": "{{timing}}", "theatre": "odeon"},
    ),
    Request(
        "The person of a ticket",
        "GET",
        TICKET + "/user",
        headers=STAFF,
        checks={"name and phone": f'pm.expect(told).to.include({{ name: "Asha Rao", phone: "{PHONE}" }});'},
    ),
    Request("The person, for a stranger", "GET", TICKET + "/user", 401, "staff_only"),
    Request(
        "The tickets of a showtime",
        "GET",
        SHOWTIMES + "/{{showtime}}/tickets",
        headers=STAFF,
        checks={
            "the ticket is among them": "pm.expect(told.tickets.map(ticket => ticket.ticket_id))"
            '.to.include(saved("ticketId"));',
        },
    ),
    Request(
        "The same as CSV",
        "GET",
        SHOWTIMES + "/{{showtime}}/tickets",
        headers={**STAFF, "Accept": "text/csv"},
        checks={
            "a file": 'pm.expect(header("Content-Disposition")).to.include("attachment");',
            "no cell is a formula": f'pm.expect(told).to.include("\'{PHONE}");',
        },
    ),
    Request("The tickets, for a stranger", "GET", SHOWTIMES + "/{{showtime}}/tickets", 401, "staff_only"),
    Request(
        "Let the ticket in",
        "POST",
        TICKET + "/admission",
        headers=STAFF,
        checks={"admitted": 'pm.expect(told.status).to.equal("admitted");'},
    ),
    Request(
        "Let it in again",
        "POST",
        TICKET + "/admission",
        409,
        "already_admitted",
        STAFF,
        checks={"it says since when": "pm.expect(told.admitted_at).to.be.a('string');"},
    ),
    Request("Let in, by a stranger", "POST", TICKET + "/admission", 401, "staff_only"),
    Request("Cancel what was let in", "DELETE", TICKET, 409, "already_admitted", {"Ticket-Phone": PHONE}),
    Request(
        "Book another",
        "POST",
        "/v1/tickets",
        201,
        headers={"Idempotency-Key": "{{key}}"},
        body={**ASHA, "timing": "{{timing}}"},
        before='pm.collectionVariables.set("key", pm.variables.replaceIn("{{$guid}}"));',
        saves={"ticketId": "told.ticket_id"},
    ),
    Request("Cancel it with the wrong phone", "DELETE", TICKET, 403, "wrong_phone", {"Ticket-Phone": "7654321"}),
    Request("Cancel it", "DELETE", TICKET, 204, headers={"Ticket-Phone": PHONE}),
    Request("It is gone", "GET", TICKET, 404, "ticket_not_found"),
    Request(
        "Its key books nothing new",
        "POST",
        "/v1/tickets",
        409,
        "booking_cancelled",
        {"Idempotency-Key": "{{key}}"},
        {**ASHA, "timing": "{{timing}}"},
    ),
]

OPERATIONS = [
    Request("Alive", "GET", "/livez", checks={"ok": 'pm.expect(told.status).to.equal("ok");'}),
    Request("Ready", "GET", "/readyz", checks={"ok": 'pm.expect(told.status).to.equal("ok");'}),
    Request(
        "The counts for Prometheus",
        "GET",
        "/metrics",
        headers=STAFF,
        checks={"bookings are counted": "pm.expect(told).to.include('matinee_bookings_total{outcome=\"booked\"}');"},
    ),
    Request("The counts, for a stranger", "GET", "/metrics", 401, "staff_only"),
    Request(
        "The API's document",
        "GET",
        "/openapi.json",
        checks={"OpenAPI 3.1": 'pm.expect(told.openapi).to.equal("3.1.0");'},
    ),
    Request("The document to try", "GET", "/docs", checks={"a page": 'pm.expect(told).to.include("swagger-ui");'}),
    Request(
        "What problems mean",
        "GET",
        "/docs/errors",
        checks={"sold_out is told": "pm.expect(told).to.include('id=\"sold_out\"');"},
    ),
    Request("Nothing here", "GET", "/nothing", 404, "route_not_found"),
]

PAGES = [
    Request(
        "The front page",
        "GET",
        "/",
        headers=HTML,
        checks={
            "it may run nothing from elsewhere": 'pm.expect(header("Content-Security-Policy"))'
            ".to.include(\"default-src 'none'\");",
        },
        saves={"asset": r"told.match(/(?:\/|&#x2f;)assets(?:\/|&#x2f;)(matinee\.[0-9a-f]+\.css)/)[1]"},
    ),
    Request("A file of the pages", "GET", "/assets/{{asset}}"),
    Request("A file that is none", "GET", "/assets/nothing.css", 404, "route_not_found"),
    Request("The theatres to choose from", "GET", "/theatres", headers=HTML),
    Request(
        "The page of a theatre",
        "GET",
        "/theatres/{{theatre}}",
        headers=HTML,
        saves={
            "formTiming": r'[...told.matchAll(/name="timing" id="[^"]+" value="([^"]+)"[^>]*?(?<!disabled)>/g)][0][1]',
            "formOther": r'[...told.matchAll(/name="timing" id="[^"]+" value="([^"]+)"[^>]*?(?<!disabled)>/g)][1][1]',
        },
    ),
    Request("The page of no theatre", "GET", "/theatres/odeon", 404, headers=HTML),
    Request(
        "Book by the form",
        "POST",
        "/theatres/{{theatre}}",
        303,
        headers=HTML,
        form={**ASHA, "timing": "{{formTiming}}"},
        checks={"it leads to the ticket": 'pm.expect(header("Location")).to.match(/^\\/tickets\\//);'},
        saves={"ticketId": r'header("Location").match(/tickets\/([^#]+)/)[1]'},
    ),
    Request(
        "Fill the form in wrong",
        "POST",
        "/theatres/{{theatre}}",
        422,
        headers=HTML,
        form={"name": "", "phone": "12", "timing": "{{formTiming}}"},
        checks={"each field is told": 'pm.expect(told).to.include("Enter your name.");'},
    ),
    Request(
        "The ticket's page",
        "GET",
        "/tickets/{{ticketId}}",
        headers=HTML,
        checks={"its name": 'pm.expect(told).to.include("Asha Rao");'},
    ),
    Request("The page of no ticket", "GET", f"/tickets/{UNKNOWN}", 404, headers=HTML),
    Request(
        "Move by the form",
        "POST",
        "/tickets/{{ticketId}}/move",
        303,
        headers=HTML,
        form={"timing": "{{formOther}}", "phone": PHONE},
    ),
    Request(
        "Move with the wrong phone",
        "POST",
        "/tickets/{{ticketId}}/move",
        403,
        headers=HTML,
        form={"timing": "{{formTiming}}", "phone": "7654321"},
    ),
    Request("Cancel by the form", "POST", "/tickets/{{ticketId}}/cancel", 303, headers=HTML, form={"phone": PHONE}),
    Request("Cancel it once more", "POST", "/tickets/{{ticketId}}/cancel", 404, headers=HTML, form={"phone": PHONE}),
    Request("The box office, for a stranger", "GET", "/box-office", 401, headers=HTML),
    Request(
        "Sign in with a wrong token",
        "POST",
        "/box-office/sign-in",
        401,
        headers=HTML,
        form={"token": "not the staff token"},
    ),
    Request("Sign in", "POST", "/box-office/sign-in", 303, headers=HTML, form={"token": "{{staffToken}}"}),
    Request("The door", "GET", "/box-office", headers=HTML, checks={"open": 'pm.expect(told).to.include("Let in");'}),
    Request(
        "A ticket for the door",
        "POST",
        "/v1/tickets",
        201,
        body={"name": "Mara Lindqvist", "phone": "+46701234567", "timing": "{{timing}}"},
        saves={"ticketId": "told.ticket_id", "showtime": "told.showtime"},
    ),
    Request(
        "A ticket to cancel at the door",
        "POST",
        "/v1/tickets",
        201,
        body={"name": "Tom\u00e1s \u00c1lvarez", "phone": "+34612345678", "timing": "{{timing}}"},
        saves={"secondId": "told.ticket_id"},
    ),
    Request(
        "Look a person up",
        "GET",
        "/box-office/ticket",
        headers=HTML,
        query={"ticket_id": "{{ticketId}}"},
        checks={"found": 'pm.expect(told).to.include("Mara Lindqvist");'},
    ),
    Request("Look nobody up", "GET", "/box-office/ticket", 404, headers=HTML, query={"ticket_id": UNKNOWN}),
    Request(
        "Let in at the door",
        "POST",
        "/box-office/admission",
        headers=HTML,
        form={"ticket_id": "{{ticketId}}"},
        checks={"yes": 'pm.expect(told).to.include("Mara Lindqvist");'},
    ),
    Request(
        "Let in a second time",
        "POST",
        "/box-office/admission",
        409,
        headers=HTML,
        form={"ticket_id": "{{ticketId}}"},
        checks={"already": 'pm.expect(told).to.include("Already let in");'},
    ),
    Request(
        "Cancel at the door", "POST", "/box-office/cancellation", 303, headers=HTML, form={"ticket_id": "{{secondId}}"}
    ),
    Request(
        "The list of a showtime",
        "GET",
        "/box-office/{{theatre}}/{{showtime}}",
        headers=HTML,
        checks={"who comes": 'pm.expect(told).to.include("Mara Lindqvist");'},
    ),
    Request(
        "The list as CSV",
        "GET",
        "/box-office/{{theatre}}/{{showtime}}/tickets.csv",
        checks={"a file": 'pm.expect(header("Content-Type")).to.include("text/csv");'},
    ),
    Request(
        "Cancel nobody at the door", "POST", "/box-office/cancellation", 404, headers=HTML, form={"ticket_id": UNKNOWN}
    ),
    Request("The list of no showtime", "GET", "/box-office/{{theatre}}/{{date}}T04:44", 404, headers=HTML),
    Request("Sign out", "POST", "/box-office/sign-out", 303, headers=HTML, form={}),
    Request("The door is shut again", "GET", "/box-office", 401, headers=HTML),
    Request("And so is the list", "GET", "/box-office/{{theatre}}/{{showtime}}/tickets.csv", 401, "staff_only"),
]

FOLDERS = {
    "The classic routes": (CLASSIC, "The six routes of the original assignment, with forms and with JSON."),
    "Theatres and showtimes": (PROGRAMME, "The programme and its seats, for anybody."),
    "Tickets": (TICKETS, "A ticket's life as a resource: booked, moved, let in, cancelled; and what is refused."),
    "Operations": (OPERATIONS, "Health, counts, and the API's own documents."),
    "Pages": (PAGES, "What a browser does at the web page and at the box office, signed in by a cookie."),
}
