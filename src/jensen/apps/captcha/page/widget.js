// The widget. It is served as a call of this function with the messages of all languages.
(messages) => {
  "use strict";
  const base = new URL(".", document.currentScript.src);
  const RESPONSE = "jensen-captcha-response";
  const ICONS = {
    fresh: "M20 11a8 8 0 1 0-2.3 6.3M20 5v6h-6",
    listen: "M4 9.5v5h3.5L12 19V5L7.5 9.5zM16 9a4 4 0 0 1 0 6M18.5 6.5a8 8 0 0 1 0 11",
    passed: "M5 12.5l4.5 4.5L19 7.5",
  };
  const SENTENCES = { 0: "offline", 408: "offline", 429: "limited", 500: "busy", 502: "busy", 503: "busy", 504: "busy" };
  const PASSING = ["busy", "limited"];
  const MOST_RETRIES = 10;
  const LONGEST_WAIT = 60; // seconds
  const PATIENCE = 30; // seconds in which a request is answered
  const widgets = new WeakMap(); // by element
  let hosts = []; // weak references to their elements, which may leave the page, for a while or for ever

  class Refused extends Error {
    constructor(status, code = "network", wait = 0) {
      super(code);
      Object.assign(this, { status, code, wait, sentence: SENTENCES[status] ?? "refused" });
    }
  }

  async function ask(path, form) {
    const options = { method: "POST", credentials: "omit", cache: "no-store" };
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(form);
    options.signal = AbortSignal.timeout?.(1000 * PATIENCE);
    const lost = () => Promise.reject(new Refused(0));
    const response = await fetch(new URL(path, base), options).catch(lost);
    const found = await response.json().catch(response.ok ? lost : () => ({}));
    if (!response.ok) throw new Refused(response.status, found.code, Number(response.headers.get("Retry-After")));
    const sent = Date.parse(response.headers.get("Date")) || Date.now(); // this machine's clock may be wrong
    return { ...found, seconds: (found.expires - sent) / 1000 };
  }

  function make(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function icon(name) {
    const drawn = ["svg", "path"].map((kind) => document.createElementNS("http://www.w3.org/2000/svg", kind));
    drawn[0].setAttribute("viewBox", "0 0 24 24");
    drawn[0].setAttribute("aria-hidden", "true");
    drawn[1].setAttribute("d", ICONS[name]);
    drawn[0].append(drawn[1]);
    return drawn[0];
  }

  function languageOf(host) {
    const wanted = [host.dataset.lang, host.closest("[lang]")?.lang, ...navigator.languages];
    const known = wanted.map((tag) => (tag ?? "").slice(0, 2).toLowerCase());
    return known.find((tag) => tag in messages) ?? "en";
  }

  class Widget {
    constructor(host) {
      this.host = host;
      this.language = languageOf(host);
      this.words = messages[this.language];
      this.turn = 0; // of the newest request: answers to earlier ones are dropped
      this.checking = null; // the promise of the answer that is on its way
      this.loading = false;
      this.failed = false; // there is no picture, and none is asked for
      this.submits = 0;
      this.token = "";
      this.inputs = [RESPONSE, ...(host.dataset.responseFieldName ?? "").split(/\s+/).filter(Boolean)].map((name) =>
        make("input", { type: "hidden", name }),
      );
      host.append(...this.inputs);
      this.draw();
      this.guard(host.closest("form"));
      this.load();
    }

    draw() {
      const words = this.words;
      this.picture = make("img", { alt: words.alt, hidden: "" });
      this.input = make("input", {
        id: "answer", type: "text", dir: "ltr", maxlength: 64, autocomplete: "off", autocapitalize: "characters",
        autocorrect: "off", spellcheck: "false", "aria-describedby": "status", enterkeyhint: "go",
      });
      const check = make("button", { type: "button", class: "main" }, words.check);
      const fresh = make("button", { type: "button" }, icon("fresh"), words.fresh);
      this.listening = make("button", { type: "button", "aria-pressed": "false", hidden: "" }, icon("listen"), words.listen);
      this.open = make("div", {}, make("div", { class: "picture" }, this.picture),
        make("label", { for: "answer" }, words.label), make("div", { class: "row" }, this.input, check),
        make("div", { class: "row tools" }, fresh, this.listening));
      this.done = make("p", { class: "passed", tabindex: "-1", hidden: "" }, icon("passed"), words.passed);
      this.status = make("p", { class: "status", id: "status", role: "status" });
      this.group = make("div", { class: "captcha", role: "group", "aria-label": words.title, lang: this.language,
        dir: words.dir, hidden: "" }, this.open, this.done, this.status);
      const style = make("link", { rel: "stylesheet", href: new URL("widget.css", base) });
      for (const event of ["load", "error"]) style.addEventListener(event, () => (this.group.hidden = false));
      this.host.attachShadow({ mode: "open" }).append(style, this.group);
      this.audio = new Audio();
      for (const event of ["play", "pause", "ended"]) {
        this.audio.addEventListener(event, () => this.listening.setAttribute("aria-pressed", String(!this.audio.paused)));
      }
      check.addEventListener("click", () => this.check());
      fresh.addEventListener("click", () => this.loading || this.load("renewed"));
      this.listening.addEventListener("click", () => this.listen());
      this.group.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || event.isComposing) return;
        if (event.repeat || event.target === this.input) event.preventDefault();
        if (!event.repeat && event.target === this.input) this.check(); // a key that is held is pressed once
      });
    }

    guard(form) {
      const widget = new WeakRef(this); // the form may outlive it
      form?.addEventListener("submit", (event) => widget.deref()?.hold(event), { capture: true });
    }

    // A form that is sent before the check is checked first; if loading failed, its server decides.
    async hold(event) {
      const form = event.currentTarget;
      if (this.token || this.failed || !form.contains(this.host)) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      this.group.hidden = false; // what is said must be seen, even before the styles are there
      const submit = ++this.submits; // a form that is sent twice while it is checked is sent once
      if ((await this.check()) && submit === this.submits) form.requestSubmit(event.submitter);
    }

    async load(sentence = "", retries = 0) {
      const turn = ++this.turn;
      clearTimeout(this.timer);
      this.audio.pause();
      this.id = "";
      this.checking = null;
      this.loading = true;
      this.failed = false;
      this.group.setAttribute("aria-busy", "true");
      const { siteKey, sitekey, action = "", cdata = "" } = this.host.dataset;
      try {
        const found = await ask("challenge", { site_key: siteKey ?? sitekey ?? "", action, cdata, lang: this.language });
        if (turn !== this.turn) return;
        this.show(found);
        this.say(sentence);
      } catch (error) {
        if (turn !== this.turn) return;
        this.picture.hidden = this.listening.hidden = true; // the earlier picture cannot be answered any more
        const again = error.wait > 0 && retries < MOST_RETRIES && this.host.isConnected;
        this.failed = !again;
        this.fail(error, !again && PASSING.includes(error.sentence) ? "stopped" : error.sentence);
        if (!again) return;
        const wait = 1000 * Math.min(error.wait, LONGEST_WAIT);
        this.timer = setTimeout(() => this.load(sentence, retries + 1), wait);
      } finally {
        if (turn === this.turn) {
          this.loading = false;
          this.group.setAttribute("aria-busy", "false");
        }
      }
    }

    show({ id, picture, audio }) {
      this.id = id;
      this.picture.src = `data:${picture.media_type};base64,${picture.data}`;
      this.picture.hidden = false;
      this.input.value = "";
      this.listening.hidden = !audio;
      if (audio) this.audio.src = `data:${audio.media_type};base64,${audio.data}`;
    }

    listen() {
      if (!this.audio.paused) {
        this.audio.pause();
        return;
      }
      this.audio.currentTime = 0;
      this.audio.play().catch(() => this.say("silent"));
    }

    // Whether the answer is right; while an answer is on its way, no other is sent.
    check() {
      if (!this.checking) {
        const checking = this.answer().finally(() => {
          if (this.checking === checking) this.checking = null;
        });
        this.checking = checking;
      }
      return this.checking;
    }

    async answer() {
      const answer = this.input.value.trim();
      if (!answer || !this.id) {
        if (!this.failed) this.say(this.id ? "missing" : "busy", true);
        this.input.focus();
        return false;
      }
      const turn = ++this.turn;
      this.group.setAttribute("aria-busy", "true");
      try {
        const { siteKey, sitekey } = this.host.dataset;
        const found = await ask("answer", { site_key: siteKey ?? sitekey, id: this.id, answer });
        if (turn !== this.turn) return false;
        if (found.solved) this.pass(found);
        else await this.miss(found.tries_left);
        return found.solved;
      } catch (error) {
        if (turn === this.turn) await this.unanswered(error);
        return false;
      } finally {
        if (turn === this.turn) this.group.setAttribute("aria-busy", "false");
      }
    }

    pass({ token, seconds }) {
      const within = this.host.shadowRoot.activeElement;
      this.audio.pause();
      this.settle(token);
      this.say("");
      if (within) this.done.focus();
      this.timer = setTimeout(() => {
        if (!this.host.isConnected) return this.settle("");
        this.reset("lapsed");
        this.call("expiredCallback");
      }, 1000 * seconds);
      this.call("callback", token);
    }

    async miss(left) {
      if (left) this.say("wrong", true, { left: left.toLocaleString(this.language) });
      else await this.load("spent");
      this.input.focus();
      this.input.select();
    }

    async unanswered(error) {
      if (error.status !== 404 && error.status !== 410) {
        this.fail(error, error.sentence === "busy" ? "unchecked" : error.sentence);
        return;
      }
      await this.load(error.code === "closed" ? "closed" : "expired");
      this.input.focus();
    }

    fail(error, sentence = "offline") {
      this.say(sentence, true);
      this.call("errorCallback", error.code ?? "network");
    }

    settle(token) {
      this.token = token;
      for (const input of this.inputs) input.value = token;
      this.open.hidden = Boolean(token);
      this.done.hidden = !token;
    }

    async reset(sentence = "") {
      const within = this.host.shadowRoot.activeElement;
      this.settle("");
      if (within) this.input.focus();
      await this.load(sentence);
    }

    say(sentence, wrong = false, values = {}) {
      const text = this.words[sentence] ?? "";
      this.status.textContent = text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? this.words[name]);
      this.status.classList.toggle("wrong", wrong);
      if (sentence === "wrong" || sentence === "missing") this.input.setAttribute("aria-invalid", "true");
      else this.input.removeAttribute("aria-invalid");
    }

    call(name, ...values) {
      const found = window[this.host.dataset[name]];
      if (typeof found === "function") found(...values);
    }
  }

  const present = () => hosts.map((host) => host.deref()).filter((host) => host?.isConnected);

  function hostOf(target) {
    return typeof target === "string" ? document.querySelector(target) : (target ?? present()[0]);
  }

  window.jensenCaptcha = {
    render(target) {
      const host = hostOf(target);
      if (!host || widgets.has(host)) return;
      widgets.set(host, new Widget(host));
      hosts = [...hosts.filter((known) => known.deref()), new WeakRef(host)];
    },
    reset: (target) => widgets.get(hostOf(target))?.reset(),
    getResponse: (target) => widgets.get(hostOf(target))?.token ?? "",
  };
  document.querySelectorAll(".jensen-captcha").forEach(window.jensenCaptcha.render);
  // a page that is shown again from the browser's memory has a token that was used
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) present().forEach(window.jensenCaptcha.reset);
  });
}
