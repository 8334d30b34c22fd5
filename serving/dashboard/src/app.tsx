/** The frame around every page: where one can go, what range is looked at, whether it is live, and who looks. */
import type { ComponentType } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { AlertsOfAll, useAlertsOfAll } from "./alerts";
import { language, t } from "./language";
import { Activity } from "./pages/activity";
import { Alerts } from "./pages/alerts";
import { Hosts } from "./pages/hosts";
import { LineagePage } from "./pages/lineage";
import { Logs } from "./pages/logs";
import { Overview } from "./pages/overview";
import { Pipeline } from "./pages/pipeline";
import { Posts } from "./pages/posts";
import { Services } from "./pages/services";
import { SignIn } from "./pages/signin";
import { Users } from "./pages/users";
import { age, integer, zone } from "./format";
import { href, PAGES, route, type Page } from "./route";
import { claims, signOut, token } from "./session";
import { useStore } from "./store";
import { Icon, Mark } from "./ui/icon";
import { LiveSwitch } from "./ui/live";
import { useNow } from "./ui/parts";
import { RangePicker } from "./ui/range";
import { LanguageChoice, ThemeChoice } from "./ui/settings";

const SHOWN: Record<Page, { of: ComponentType; ranged: boolean }> = {
  overview: { of: Overview, ranged: true },
  activity: { of: Activity, ranged: true },
  posts: { of: Posts, ranged: false },
  services: { of: Services, ranged: true },
  hosts: { of: Hosts, ranged: true },
  logs: { of: Logs, ranged: true },
  users: { of: Users, ranged: false },
  alerts: { of: Alerts, ranged: false },
  pipeline: { of: Pipeline, ranged: false },
  lineage: { of: LineagePage, ranged: false },
};

export function App() {
  useStore(language);
  return useStore(token) === null ? <SignIn /> : <Frame />;
}

function Frame() {
  const { page } = useStore(route);
  const alerts = useAlertsOfAll();
  const [menu, setMenu] = useState(false);
  const heading = useRef<HTMLHeadingElement>(null);
  const main = useRef<HTMLElement>(null);
  const first = useRef(true);
  const title = t(`page.${page}`);
  const { of: Shown, ranged } = SHOWN[page];
  const firing = alerts.data?.filter((one) => one.state === "firing" && !one.silenced).length ?? 0;

  useEffect(() => {
    document.title = `${firing > 0 ? `(${firing}) ` : ""}${title} · lakehouse`;
  }, [title, firing]);
  useEffect(() => {
    setMenu(false);
    // Who went to another page by keys or by ear begins at its heading; who has just come is left alone.
    if (first.current) first.current = false;
    else {
      heading.current?.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
  }, [page]);

  return (
    <AlertsOfAll.Provider value={alerts}>
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          main.current?.focus();
        }}
      >
        {t("app.skip")}
      </a>
      <div class="frame">
        <header class={menu ? "side open" : "side"}>
          <div class="brand">
            <a href={href("overview")} class="brand-link">
              <Mark size={24} />
              <span>lakehouse</span>
            </a>
            <button
              type="button"
              class="icon-button menu-button"
              aria-expanded={menu}
              aria-controls="side-menu"
              onClick={() => setMenu(!menu)}
            >
              <Icon name={menu ? "close" : "menu"} size={20} />
              <span class="hidden">{t("app.menu")}</span>
            </button>
          </div>
          <div
            class="side-menu"
            id="side-menu"
            onKeyDown={(event) => {
              if (event.key === "Escape") setMenu(false);
            }}
          >
            <nav aria-label={t("app.pages")}>
              <ul>
                {PAGES.map((one) => (
                  <li key={one}>
                    <a href={href(one)} aria-current={one === page ? "page" : undefined}>
                      <Icon name={one} />
                      <span>{t(`page.${one}`)}</span>
                      {one === "alerts" && firing > 0 && (
                        <span class="count">
                          {integer(firing)}
                          <span class="hidden"> {t("app.firing")}</span>
                        </span>
                      )}
                    </a>
                  </li>
                ))}
              </ul>
            </nav>
            <Settings />
          </div>
        </header>
        <main id="main" ref={main} tabIndex={-1}>
          <div class="top">
            <h1 ref={heading} tabIndex={-1}>
              {title}
            </h1>
            <div class="top-tools">
              {ranged && <RangePicker />}
              <LiveSwitch />
            </div>
          </div>
          <div class={`page page-${page}`}>
            <Shown key={page} />
          </div>
          <p class="zone">{t("app.zone", { zone: zone() })}</p>
        </main>
      </div>
    </AlertsOfAll.Provider>
  );
}

function Settings() {
  return (
    <div class="settings">
      <Who />
      <ThemeChoice />
      <LanguageChoice />
    </div>
  );
}

function Who() {
  const given = useStore(token);
  const said = given === null ? null : claims(given);
  const now = useNow();
  const left = said?.expires ? Math.max((said.expires - now) / 1000, 0) : null;
  return (
    <div class="who">
      <div class="who-name">
        <strong>{said?.sub || t("app.someone")}</strong>
        {left !== null && <span title={said?.scopes.join(", ")}>{t("app.expires", { age: age(left) })}</span>}
      </div>
      <button type="button" class="icon-button" onClick={() => signOut()} title={t("app.signout")}>
        <Icon name="out" />
        <span class="hidden">{t("app.signout")}</span>
      </button>
    </div>
  );
}
