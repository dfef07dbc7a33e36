%% The configuration of the plugin, and the configuration of the program that it makes of it. Pure: nothing here reads
%% a file or asks EMQX.
%%
%% EMQX hands the configuration on as it was entered. A field that the form left out is missing, so the defaults are
%% here; those of config_schema.avsc are for the form.
-module(lwm2m_gateway_config).

-export([fields/0, settings/1, toml/2]).
-export_type([settings/0, places/0]).

%% The value of each field, by the field's name.
-type settings() :: #{binary() => binary() | boolean() | non_neg_integer()}.
%% Files of the program that the plugin chooses.
-type places() :: #{store := binary(), socket := binary(), tokens := binary()}.

-type field() :: {Name :: binary(), text | number | switch | {one_of, [binary()]}, Default :: term()}.

-spec fields() -> [field()].
fields() ->
    [
        {<<"udp_bind">>, text, <<"0.0.0.0:5683">>},
        {<<"dtls_bind">>, text, <<>>},
        {<<"psk_file">>, text, <<>>},
        {<<"upstream">>, {one_of, [<<"auto">>, <<"exproto">>, <<"mqtt">>]}, <<"auto">>},
        {<<"mqtt_broker">>, text, <<"127.0.0.1:1883">>},
        {<<"configure_exproto">>, switch, true},
        {<<"exproto_listener">>, text, <<"127.0.0.1:7993">>},
        {<<"exproto_adapter">>, text, <<"http://127.0.0.1:9100">>},
        {<<"exproto_handler">>, text, <<"127.0.0.1:9001">>},
        {<<"max_devices">>, number, 100_000},
        {<<"xml_dir">>, text, <<>>},
        {<<"admin_bind">>, text, <<"127.0.0.1:8085">>},
        {<<"log_level">>, {one_of, [<<"error">>, <<"warn">>, <<"info">>, <<"debug">>]}, <<"info">>},
        {<<"extra_toml">>, text, <<>>}
    ].

%% Returns the settings with defaults for what is missing, or what is wrong with one of them, for people.
-spec settings(map()) -> {ok, settings()} | {error, binary()}.
settings(Given) ->
    Values = [{Name, value(Kind, maps:get(Name, Given, Default))} || {Name, Kind, Default} <- fields()],
    case [{Name, Reason} || {Name, {error, Reason}} <- Values] of
        [] -> {ok, maps:from_list([{Name, Value} || {Name, {ok, Value}} <- Values])};
        [{Name, Reason} | _] -> {error, iolist_to_binary([Name, ": ", Reason])}
    end.

value(text, Value) when is_binary(Value) -> {ok, string:trim(Value)};
value(text, _) -> {error, "expected text"};
value(number, Value) when is_integer(Value), Value > 0 -> {ok, Value};
value(number, _) -> {error, "expected a whole number above 0"};
value(switch, Value) when is_boolean(Value) -> {ok, Value};
value(switch, _) -> {error, "expected true or false"};
value({one_of, Allowed}, Value) ->
    case lists:member(Value, Allowed) of
        true -> {ok, Value};
        false -> {error, ["expected one of ", lists:join(", ", Allowed)]}
    end.

%% Returns the program's configuration file. `upstream` of the settings is exproto or mqtt here.
-spec toml(settings(), places()) -> binary().
toml(Settings, Places) ->
    Keys = [Key || {_, _, Value} = Key <- keys(Settings, Places), Value =/= leave_out],
    Extra = [string:trim(Line, trailing, "\r") || Line <- binary:split(text(extra_toml, Settings), <<"\n">>, [global])],
    {Lines, Rest} = lists:mapfoldl(fun below_header/2, Keys, Extra),
    Head = "# Written by the plugin of EMQX from its configuration; a change here is lost.\n",
    iolist_to_binary([Head, [line(dotted(Key), Value) || {_, _, Value} = Key <- Rest], "\n", Lines]).

%% A table may be defined once, so the plugin's keys of a table of the extra lines stand below its header.
below_header(Line, Keys) ->
    Header = header(Line),
    {Own, Rest} = lists:partition(fun({Table, _, _}) -> Table =:= Header end, Keys),
    {[Line, "\n", [line(Name, Value) || {_, Name, Value} <- Own]], Rest}.

header(Line) ->
    case re:run(Line, "^\\s*\\[\\s*([A-Za-z0-9_.-]+)\\s*\\]\\s*(#.*)?$", [{capture, [1], list}]) of
        {match, [Table]} -> Table;
        nomatch -> none
    end.

keys(Settings, #{store := Store, socket := Socket, tokens := Tokens}) ->
    Text = fun(Name) -> text(Name, Settings) end,
    Given = fun(Name) -> given(Text(Name)) end,
    Exproto = Text(upstream) =:= <<"exproto">>,
    Admin = Text(admin_bind),
    [
        {"", "shutdown_timeout", <<"4s">>},
        {"", "xml_dir", Text(xml_dir)},
        {"listeners.udp.default", "bind", Given(udp_bind)},
        {"listeners.dtls.default", "bind", Given(dtls_bind)},
        {"dtls", "psk_file", Given(psk_file)},
        {"upstream", "kind", Text(upstream)},
        {"upstream.mqtt", "brokers", only(not Exproto, [Text(mqtt_broker)])},
        {"upstream.exproto", "listener", only(Exproto, Text(exproto_listener))},
        {"upstream.exproto", "adapter", only(Exproto, Text(exproto_adapter))},
        {"upstream.exproto", "handler_bind", only(Exproto, Text(exproto_handler))},
        {"limits", "devices", maps:get(<<"max_devices">>, Settings)},
        {"admin", "enable", Admin =/= <<>>},
        {"admin", "bind", given(Admin)},
        {"log", "level", Text(log_level)},
        {"store", "file", Store},
        {"console", "socket", Socket},
        {"console", "socket_mode", <<"0600">>},
        {"console", "tokens", Tokens},
        {"console", "bind", <<"127.0.0.1:0">>}
    ].

text(Name, Settings) -> maps:get(atom_to_binary(Name), Settings).

given(<<>>) -> leave_out;
given(Text) -> Text.

only(true, Value) -> Value;
only(false, _) -> leave_out.

dotted({"", Name, _}) -> Name;
dotted({Table, Name, _}) -> [Table, ".", Name].

line(Name, Value) -> [Name, " = ", literal(Value), "\n"].

literal(true) -> "true";
literal(false) -> "false";
literal(Value) when is_integer(Value) -> integer_to_list(Value);
literal(Values) when is_list(Values) -> ["[", lists:join(", ", [literal(Value) || Value <- Values]), "]"];
literal(Text) -> [$", [escape(Character) || Character <- unicode:characters_to_list(Text)], $"].

escape($") -> "\\\"";
escape($\\) -> "\\\\";
escape(Character) when Character < 32; Character =:= 127 -> io_lib:format("\\u~4.16.0b", [Character]);
escape(Character) -> unicode:characters_to_binary([Character]).
