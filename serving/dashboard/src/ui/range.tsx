/** The picker of the range: up to now, or between two times of the reader's zone. */
import { useEffect, useRef, useState } from "preact/hooks";

import { dayClock, zone } from "../format";
import { t } from "../language";
import { bounds, moved, parseRange, SPANS, type Range } from "../range";
import { route, setRange } from "../route";
import { useStore } from "../store";
import { Icon } from "./icon";

export function useRange(): Range {
  return parseRange(useStore(route).params);
}

export function rangeText(range: Range): string {
  if ("last" in range) return t(`range.${range.last}`);
  return `${dayClock(range.from)} – ${dayClock(range.to)}`;
}

export function RangePicker() {
  const range = useRange();
  const [open, setOpen] = useState(false);
  const box = useRef<HTMLDivElement>(null);
  const button = useRef<HTMLButtonElement>(null);

  useEffect(() => {
    if (!open) return;
    const find = (selector: string) => box.current?.querySelector<HTMLElement>(selector);
    (find(".range-menu [aria-current=true]") ?? find(".range-menu button"))?.focus();
    const outside = (event: Event) => {
      if (!box.current?.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener("pointerdown", outside);
    document.addEventListener("focusin", outside);
    return () => {
      document.removeEventListener("pointerdown", outside);
      document.removeEventListener("focusin", outside);
    };
  }, [open]);

  const close = () => {
    setOpen(false);
    button.current?.focus();
  };
  const choose = (chosen: Range) => {
    setRange(chosen);
    close();
  };
  const move = (direction: -1 | 1) => setRange(moved(range, direction, Date.now()));

  return (
    <div
      class="range"
      ref={box}
      onKeyDown={(event) => {
        if (event.key === "Escape" && open) close();
      }}
    >
      <button type="button" class="icon-button" onClick={() => move(-1)} title={t("range.before")}>
        <Icon name="left" />
        <span class="hidden">{t("range.before")}</span>
      </button>
      <button
        type="button"
        class="range-now"
        ref={button}
        aria-expanded={open}
        aria-controls="range-menu"
        onClick={() => setOpen(!open)}
      >
        <Icon name="clock" size={14} />
        <span class="hidden">{t("range.label")}: </span>
        <span>{rangeText(range)}</span>
        <Icon name="down" size={14} />
      </button>
      <button
        type="button"
        class="icon-button"
        onClick={() => move(1)}
        disabled={"last" in range}
        title={t("range.after")}
      >
        <Icon name="right" />
        <span class="hidden">{t("range.after")}</span>
      </button>
      {open && (
        <div class="range-menu" id="range-menu" role="group" aria-label={t("range.label")}>
          <ul>
            {SPANS.map((last) => (
              <li key={last}>
                <button
                  type="button"
                  aria-current={"last" in range && range.last === last}
                  onClick={() => choose({ last })}
                >
                  {t(`range.${last}`)}
                </button>
              </li>
            ))}
          </ul>
          <Between range={range} choose={choose} />
        </div>
      )}
    </div>
  );
}

function Between({ range, choose }: { range: Range; choose: (range: Range) => void }) {
  const now = bounds(range, Date.now());
  const [from, setFrom] = useState(local(now.from));
  const [to, setTo] = useState(local(now.to));
  const [wrong, setWrong] = useState(false);
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        const chosen = { from: new Date(from).getTime(), to: new Date(to).getTime() };
        if (chosen.from < chosen.to) choose(chosen);
        else setWrong(true);
      }}
    >
      <label>
        <span>{t("range.from")}</span>
        <input
          type="datetime-local"
          required
          value={from}
          aria-invalid={wrong}
          aria-describedby="range-wrong"
          onInput={(event) => setFrom(event.currentTarget.value)}
        />
      </label>
      <label>
        <span>{t("range.to")}</span>
        <input
          type="datetime-local"
          required
          value={to}
          aria-invalid={wrong}
          aria-describedby="range-wrong"
          onInput={(event) => setTo(event.currentTarget.value)}
        />
      </label>
      <p class="range-zone" id="range-wrong" role={wrong ? "alert" : undefined}>
        {wrong ? t("range.wrong") : zone()}
      </p>
      <button type="submit" class="button primary">
        {t("range.apply")}
      </button>
    </form>
  );
}

/** As `datetime-local` has it: the reader's zone, without saying so. */
function local(ms: number): string {
  const at = new Date(ms);
  return new Date(ms - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}
